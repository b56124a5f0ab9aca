-- requires: lane_hold, batch_state
--
-- The user pauses a batch: none of its jobs starts. Running jobs continue.
--
-- KEYS[6] batch
-- Returns {its state now, '1' if this call changed it}

local batch = KEYS[6]
local state = redis.call('HGET', batch, 'state')
if state ~= 'ingesting' and state ~= 'running' then return {state, '0'} end
hold_batch(batch)
redis.call('HSET', batch, 'state', 'paused', 'reason', 'user')
emit_batch('paused', batch)
return {'paused', '1'}
