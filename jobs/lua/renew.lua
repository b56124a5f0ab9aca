-- A worker's pulse: it registers its threads and renews the leases it holds.
--
-- KEYS[6] workers ZSET   KEYS[7] this worker's own words
-- ARGV[4] its name   ARGV[5] its threads for edits   ARGV[6] its own words, JSON
-- ARGV[7…] job key#attempt of each attempt it holds
-- Returns the members it has lost: the lease is gone, or the job is no longer running that attempt.

local workers, words, name, slots = KEYS[6], KEYS[7], ARGV[4], ARGV[5]
spared_now()
redis.call('ZADD', workers, exact(NOW + LEASE), name)
redis.call('SET', words, ARGV[6], 'PX', LEASE)
local field = 'slots:' .. name
local before = tonumber(redis.call('HGET', FLEET, field) or 0)
if before ~= tonumber(slots) then
  redis.call('HSET', FLEET, field, slots)
  redis.call('HINCRBY', FLEET, 'slots', tonumber(slots) - before)
end

-- What a canceled batch's lane says of its jobs holds before their records do.
local stopped = {}
local function is_stopped(lane)
  if stopped[lane] == nil then stopped[lane] = redis.call('HGET', lane, 'stopped') == '1' end
  return stopped[lane]
end

local lost = {}
for i = 7, #ARGV do
  local member = ARGV[i]
  local job, attempt = parts_of(member)
  local r = redis.call('HMGET', job, 'state', 'attempt', 'lane')
  if not redis.call('ZSCORE', LEASES, member) then
    lost[#lost + 1] = member
  else
    redis.call('ZADD', LEASES, exact(NOW + LEASE), member)
    if r[1] ~= 'running' or r[2] ~= attempt or is_stopped(r[3]) then lost[#lost + 1] = member end
  end
end
return lost
