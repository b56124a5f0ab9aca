-- A paused batch goes on.
--
-- KEYS[6] batch
-- ARGV[4] its new budget in millionths of a dollar; '' leaves it
-- Returns {state it is in now, '1' if this call changed it, or 'budget' where it could not pay for one more edit}

local batch, budget = KEYS[6], ARGV[4]
local b = redis.call('HMGET', batch, 'state', 'lanes', 'gate', 'ingested', 'cost', 'unknown', 'reserved', 'budget')
if b[1] ~= 'paused' then return {b[1], '0'} end
local lanes = redis.call('SMEMBERS', b[2])
local most = tonumber(budget ~= '' and budget or b[8])
if most then
  local price
  for _, lane in ipairs(lanes) do
    local one = tonumber(redis.call('HGET', lane, 'price') or 0)
    if not price or one < price then price = one end
  end
  local used = tonumber(b[5] or 0) + tonumber(b[6] or 0) + tonumber(b[7] or 0)
  if used + (price or 0) > most then return {'paused', 'budget'} end
end
if budget ~= '' then redis.call('HSET', batch, 'budget', budget) end
local state = b[4] == '1' and 'running' or 'ingesting'
redis.call('HSET', batch, 'state', state)
redis.call('HDEL', batch, 'reason')
for _, lane in ipairs(lanes) do
  if b[3] ~= 'trial' or redis.call('HGET', lane, 'trial') == '1' then release(lane) end
end
advance(batch)
return {redis.call('HGET', batch, 'state'), '1'}
