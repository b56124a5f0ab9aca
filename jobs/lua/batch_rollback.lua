-- The output keys of an ended batch are to be pointed back to the versions before, in the background.
--
-- KEYS[6] batch
-- Returns {state it is in now, '1' where that is so or was asked for before}

local batch = KEYS[6]
local b = redis.call('HMGET', batch, 'finished', 'state', 'chores', 'sweep')
if not b[1] then return {b[2] or '', '0'} end
if b[4] then return {b[2], 'busy'} end
if not redis.call('ZSCORE', b[3], 'rollback ' .. batch) then
  redis.call('HSET', batch, 'rollback', '{"state":"running"}', 'rollback_row', 0)
  redis.call('ZADD', b[3], AT, 'rollback ' .. batch)
end
return {b[2], '1'}
