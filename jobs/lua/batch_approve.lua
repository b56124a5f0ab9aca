-- The trial was good: the rest may be edited, with changed parameters where the user gives some.
--
-- KEYS[6] batch
-- ARGV[4] the changes, JSON; '' for none
-- Returns {state it is in now, '1' if this call changed it}

local batch = KEYS[6]
local b = redis.call('HMGET', batch, 'state', 'lanes')
if b[1] ~= 'awaiting_approval' then return {b[1], '0'} end
if ARGV[4] ~= '' then redis.call('HSET', batch, 'changes', ARGV[4]) end
redis.call('HDEL', batch, 'gate')
redis.call('HSET', batch, 'state', 'running', 'approved_at', AT)
for _, lane in ipairs(redis.call('SMEMBERS', b[2])) do release(lane) end
advance(batch)
return {redis.call('HGET', batch, 'state'), '1'}
