-- A batch is stopped, whatever its size: its lanes are emptied and closed and its counts say so. The records of its
-- jobs follow in the background; until then its lanes speak for them.
--
-- KEYS[6] batch
-- Returns {state it is in now, '1' if this call changed it}

local batch = KEYS[6]
local b = redis.call('HMGET', batch, 'state', 'lanes', 'queued', 'waiting', 'running', 'chores')
if b[1] ~= 'ingesting' and b[1] ~= 'running' and b[1] ~= 'paused' and b[1] ~= 'awaiting_approval' then
  return {b[1], '0'}
end
for _, lane in ipairs(redis.call('SMEMBERS', b[2])) do
  hold(lane)
  redis.call('HSET', lane, 'stopped', '1')
  redis.call('UNLINK', redis.call('HGET', lane, 'list'))
end
local open = tonumber(b[3] or 0) + tonumber(b[4] or 0) + tonumber(b[5] or 0)
redis.call('HINCRBY', batch, 'canceled', open)
redis.call('HSET', batch, 'state', 'canceled', 'queued', 0, 'waiting', 0, 'running', 0, 'trial_open', 0,
  'finished', AT, 'ingested', '1', 'sweep', cjson.encode({kind = 'cancel', states = {'running', 'waiting', 'queued'}}))
redis.call('HDEL', batch, 'reason', 'gate', 'cursor')
redis.call('ZREM', b[6], 'ingest ' .. batch, 'results ' .. batch)
redis.call('ZADD', b[6], AT, 'sweep ' .. batch)
emit_batch('canceled', batch)
return {'canceled', '1'}
