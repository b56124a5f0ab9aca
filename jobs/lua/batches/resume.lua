-- requires: lane_hold, batch_state
-- reads read_batch: state, lanes, gate, ingested, cost, unknown, reserved, budget
--
-- The user resumes a paused batch.
--
-- KEYS[6] batch
-- ARGV[4] its new budget in millionths of a dollar; '' leaves it
-- Returns {its state now, '1' if this call changed it, or 'budget' where it could not pay for one more edit}

local batch, new_budget = KEYS[6], ARGV[4]
local b = read_batch(batch)
if b.state ~= 'paused' then return {b.state, '0'} end
local lanes = redis.call('SMEMBERS', b.lanes)
local budget = tonumber(new_budget ~= '' and new_budget or b.budget)
if budget then
  local lowest
  for _, lane in ipairs(lanes) do
    local price = tonumber(redis.call('HGET', lane, 'price') or 0)
    if not lowest or price < lowest then lowest = price end
  end
  local used = tonumber(b.cost or 0) + tonumber(b.unknown or 0) + tonumber(b.reserved or 0)
  if used + (lowest or 0) > budget then return {'paused', 'budget'} end
end
if new_budget ~= '' then redis.call('HSET', batch, 'budget', new_budget) end
local state = b.ingested == '1' and 'running' or 'ingesting'
redis.call('HSET', batch, 'state', state)
redis.call('HDEL', batch, 'reason')
for _, lane in ipairs(lanes) do
  if b.gate ~= 'trial' or redis.call('HGET', lane, 'trial') == '1' then release(lane) end
end
advance(batch)
return {redis.call('HGET', batch, 'state'), '1'}
