-- requires: nothing
-- reads read_ended_batch: state, lanes, chores
--
-- An ended batch continues because some of its jobs are retried.

local function reopen(batch)
  local b = read_ended_batch(batch)
  if b.state ~= 'completed' and b.state ~= 'canceled' then return end
  redis.call('ZREM', b.chores, 'results ' .. batch)
  redis.call('PERSIST', b.lanes)
  redis.call('HSET', batch, 'state', 'running')
  redis.call('HDEL', batch, 'finished', 'reason', 'results_at')
  redis.call('PERSIST', batch)
  for _, lane in ipairs(redis.call('SMEMBERS', b.lanes)) do redis.call('PERSIST', lane) end
end
