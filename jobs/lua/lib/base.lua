-- requires: nothing
--
-- The clock and the small helpers that most scripts use.
--
-- ARGV[1] now, ms since 1970; 0 uses the server's clock, the only clock of the fleet (tests set their own)

local function exact(number) return string.format('%.17g', number) end

local NOW = tonumber(ARGV[1])
if NOW == 0 then
  local time = redis.call('TIME')
  NOW = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The current time as text: most scripts write it several times.
local AT = exact(NOW)

-- Lease members name a job or a delivery, and the attempt.
local function member_of(key, attempt) return key .. '#' .. attempt end
