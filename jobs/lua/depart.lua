-- A worker takes no more edits: its threads no longer count.
--
-- KEYS[6] workers ZSET   KEYS[7] its own words
-- ARGV[4] its name   ARGV[5] '1' where it is gone for good, '0' where it still drains and renews
-- Returns the threads that left.

local field = 'slots:' .. ARGV[4]
local slots = tonumber(redis.call('HGET', FLEET, field) or 0)
redis.call('HDEL', FLEET, field)
redis.call('HINCRBY', FLEET, 'slots', -slots)
if ARGV[5] == '1' then
  redis.call('ZREM', KEYS[6], ARGV[4])
  redis.call('DEL', KEYS[7])
end
return slots
