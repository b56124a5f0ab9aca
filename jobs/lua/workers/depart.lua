-- requires: common_keys
--
-- A worker takes no more edits: its threads no longer count.
--
-- KEYS[6] workers ZSET   KEYS[7] information about this worker
-- ARGV[4] its name   ARGV[5] '1' where it has ended, '0' where it still drains and renews
-- Returns its threads, which were removed from the fleet's slots.

local workers, worker_info, name, ended = KEYS[6], KEYS[7], ARGV[4], ARGV[5] == '1'
local field = 'slots:' .. name
local slots = tonumber(redis.call('HGET', FLEET, field) or 0)
redis.call('HDEL', FLEET, field)
redis.call('HINCRBY', FLEET, 'slots', -slots)
if ended then
  redis.call('ZREM', workers, name)
  redis.call('DEL', worker_info)
end
return slots
