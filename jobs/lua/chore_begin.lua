-- A worker takes up a chore, unless another holds it.
--
-- KEYS[6] chores   KEYS[7] batch
-- ARGV[4] kind   ARGV[5] length of its lease, ms
-- Returns the number of this claim, the fence of all it writes; 0 where there is nothing to do.

local batch, kind = KEYS[7], ARGV[4]
local chore = kind .. ' ' .. batch
if not redis.call('ZSCORE', KEYS[6], chore) then return 0 end
local held_until = tonumber(redis.call('HGET', batch, 'u:' .. kind) or 0)
if held_until > NOW then return 0 end
redis.call('HSET', batch, 'u:' .. kind, exact(NOW + tonumber(ARGV[5])))
redis.call('ZADD', KEYS[6], exact(NOW + tonumber(ARGV[5])), chore)
return redis.call('HINCRBY', batch, 'n:' .. kind, 1)
