-- The holder of a chore is at it still, or puts it off.
--
-- KEYS[6] chores   KEYS[7] batch
-- ARGV[4] kind   ARGV[5] number of the claim   ARGV[6] ms of its lease, or until it is due again
-- ARGV[7] '1' where it is put off: anybody may take it up then   ARGV[8] what it waits for, for people; ''
-- Returns 1, or 0 where the claim is another's or the chore is gone.

local batch, kind = KEYS[7], ARGV[4]
local chore = kind .. ' ' .. batch
if redis.call('HGET', batch, 'n:' .. kind) ~= ARGV[5] or not redis.call('ZSCORE', KEYS[6], chore) then return 0 end
redis.call('ZADD', KEYS[6], exact(NOW + tonumber(ARGV[6])), chore)
if ARGV[7] == '1' then
  redis.call('HDEL', batch, 'u:' .. kind)
  if ARGV[8] ~= '' then redis.call('HSET', batch, 'waits_for', ARGV[8]) end
else
  redis.call('HSET', batch, 'u:' .. kind, exact(NOW + tonumber(ARGV[6])))
end
return 1
