-- requires: base, lane_hold, batch_state
-- reads read_batch: state, lanes, queued, waiting, running, chores
--
-- The user cancels a batch of any size: its lanes are emptied and marked, and its counts are changed. A sweep
-- in the background changes the records of its jobs; until then, the mark on their lanes is valid.
--
-- KEYS[6] batch
-- Returns {its state now, '1' if this call changed it}

local batch = KEYS[6]
local b = read_batch(batch)
if b.state ~= 'ingesting' and b.state ~= 'running' and b.state ~= 'paused' and b.state ~= 'awaiting_approval' then
  return {b.state, '0'}
end
for _, lane in ipairs(redis.call('SMEMBERS', b.lanes)) do
  hold(lane)
  redis.call('HSET', lane, 'stopped', '1')
  redis.call('UNLINK', redis.call('HGET', lane, 'list'))
end
local open = tonumber(b.queued or 0) + tonumber(b.waiting or 0) + tonumber(b.running or 0)
redis.call('HINCRBY', batch, 'canceled', open)
redis.call('HSET', batch, 'state', 'canceled', 'queued', 0, 'waiting', 0, 'running', 0, 'trial_open', 0,
  'finished', AT, 'ingested', '1', 'sweep', cjson.encode({kind = 'cancel', states = {'running', 'waiting', 'queued'}}))
redis.call('HDEL', batch, 'reason', 'gate', 'cursor')
redis.call('ZREM', b.chores, 'ingest ' .. batch, 'results ' .. batch)
redis.call('ZADD', b.chores, AT, 'sweep ' .. batch)
emit_batch('canceled', batch)
return {'canceled', '1'}
