-- requires: base, common_keys, members, recovery_grace
-- reads read_job: state, attempt, lane
--
-- A worker's heartbeat: registers its slots and renews the leases of the attempts that it holds.
--
-- KEYS[6] workers ZSET   KEYS[7] information about this worker
-- ARGV[4] its name   ARGV[5] its threads for edits   ARGV[6] information about it, JSON
-- ARGV[7…] job key#attempt of each attempt it holds
-- Returns the members that it has lost: the lease is gone, or the job is no longer running that attempt.

local workers, worker_info, name, slots = KEYS[6], KEYS[7], ARGV[4], tonumber(ARGV[5])
local FIRST_MEMBER = 7
in_recovery_grace()
redis.call('ZADD', workers, exact(NOW + LEASE), name)
redis.call('SET', worker_info, ARGV[6], 'PX', LEASE)
local field = 'slots:' .. name
local before = tonumber(redis.call('HGET', FLEET, field) or 0)
if before ~= slots then
  redis.call('HSET', FLEET, field, slots)
  redis.call('HINCRBY', FLEET, 'slots', slots - before)
end

-- The lane of a canceled batch is marked before the records of its jobs change.
local stopped = {}
local function is_stopped(lane)
  if stopped[lane] == nil then stopped[lane] = redis.call('HGET', lane, 'stopped') == '1' end
  return stopped[lane]
end

local lost = {}
for i = FIRST_MEMBER, #ARGV do
  local member = ARGV[i]
  local job, attempt = parts_of(member)
  local r = read_job(job)
  if not redis.call('ZSCORE', LEASES, member) then
    lost[#lost + 1] = member
  else
    redis.call('ZADD', LEASES, exact(NOW + LEASE), member)
    if r.state ~= 'running' or r.attempt ~= attempt or is_stopped(r.lane) then lost[#lost + 1] = member end
  end
end
return lost
