-- requires: nothing
--
-- The clock and the small helpers that most scripts use.
--
-- ARGV[1] now, ms since 1970; 0 uses the server's clock, the only clock of the fleet (tests set their own)

local function exact(number) return string.format('%.17g', number) end

local function clock()
  if ARGV[1] ~= '0' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local NOW = clock()

-- The current time as text: most scripts write it several times.
local AT = exact(NOW)

-- Lease members name a job or a delivery, and the attempt.
local function member_of(key, attempt) return key .. '#' .. attempt end

local function parts_of(member)
  local at = string.find(member, '#', 1, true)
  return string.sub(member, 1, at - 1), string.sub(member, at + 1)
end

-- The lowest score of a sorted set, or nil where it is empty.
local function first_score(zset)
  return tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2])
end
