-- requires: base
-- reads read_batch: finished, state, chores, sweep
--
-- Starts the rollback of an ended batch: a background task restores the earlier versions of its outputs.
--
-- KEYS[6] batch
-- Returns {its state now, '1' where the rollback is to run, by this call or an earlier one; 'busy' where a sweep has
-- not ended; '0' where the batch has not ended}

local batch = KEYS[6]
local b = read_batch(batch)
if not b.finished then return {b.state or '', '0'} end
if b.sweep then return {b.state, 'busy'} end
if not redis.call('ZSCORE', b.chores, 'rollback ' .. batch) then
  redis.call('HSET', batch, 'rollback', '{"state":"running"}', 'rollback_row', 0)
  redis.call('ZADD', b.chores, AT, 'rollback ' .. batch)
end
return {b.state, '1'}
