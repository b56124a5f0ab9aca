-- requires: base
--
-- The holder of a background task renews its lease, or postpones the task.
--
-- KEYS[6] background tasks   KEYS[7] batch or run
-- ARGV[4] kind   ARGV[5] number of the claim   ARGV[6] ms of its lease, or until it is due again
-- ARGV[7] '1' where it is postponed: then any worker may claim it   ARGV[8] what it waits for, a sentence; ''
-- Returns 1, or 0 where another worker has claimed it since or the task no longer exists.

local tasks, subject, kind, number = KEYS[6], KEYS[7], ARGV[4], ARGV[5]
local due, postponed, reason = exact(NOW + tonumber(ARGV[6])), ARGV[7] == '1', ARGV[8]
local task = kind .. ' ' .. subject
if redis.call('HGET', subject, 'n:' .. kind) ~= number or not redis.call('ZSCORE', tasks, task) then return 0 end
redis.call('ZADD', tasks, due, task)
if postponed then
  redis.call('HDEL', subject, 'u:' .. kind)
  if reason ~= '' then redis.call('HSET', subject, 'waits_for', reason) end
else
  redis.call('HSET', subject, 'u:' .. kind, due)
end
return 1
