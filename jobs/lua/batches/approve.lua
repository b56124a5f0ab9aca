-- requires: base, lane_hold, batch_state
-- reads read_batch: state, lanes
--
-- The user approves a batch after its trial: the remaining jobs may start, with changed parameters where given.
--
-- KEYS[6] batch
-- ARGV[4] the changes, JSON; '' for none
-- Returns {its state now, '1' if this call changed it}

local batch, changes = KEYS[6], ARGV[4]
local b = read_batch(batch)
if b.state ~= 'awaiting_approval' then return {b.state, '0'} end
if changes ~= '' then redis.call('HSET', batch, 'changes', changes) end
redis.call('HDEL', batch, 'gate')
redis.call('HSET', batch, 'state', 'running', 'approved_at', AT)
for _, lane in ipairs(redis.call('SMEMBERS', b.lanes)) do release(lane) end
advance(batch)
return {redis.call('HGET', batch, 'state'), '1'}
