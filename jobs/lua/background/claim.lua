-- requires: base
--
-- A worker claims a background task, unless another worker holds it.
--
-- KEYS[6] background tasks   KEYS[7] batch or run
-- ARGV[4] kind   ARGV[5] length of its lease, ms
-- Returns the number of this claim, which fences all that it writes; 0 where there is nothing to do.

local tasks, subject, kind, lease = KEYS[6], KEYS[7], ARGV[4], tonumber(ARGV[5])
local task = kind .. ' ' .. subject
if not redis.call('ZSCORE', tasks, task) then return 0 end
local held_until = tonumber(redis.call('HGET', subject, 'u:' .. kind) or 0)
if held_until > NOW then return 0 end
redis.call('HSET', subject, 'u:' .. kind, exact(NOW + lease))
redis.call('ZADD', tasks, exact(NOW + lease), task)
return redis.call('HINCRBY', subject, 'n:' .. kind, 1)
