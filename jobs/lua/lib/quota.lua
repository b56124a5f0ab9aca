-- requires: base, calendar
-- reads read_quota: max_queued, max_daily, day, today
--
-- The quotas of a tenant: jobs queued at a time, and jobs a UTC day.

local TODAY = utc_day(NOW)

-- Checks whether a tenant may submit so many more jobs. `lane` is the record of one of its lanes, as it is to be
-- written: it names the tenant's indexes.
-- Returns nil and the number of jobs submitted today, or the answer of a refused script:
-- {'quota', which quota, its limit, seconds until the next UTC day}.
local function check_quota(tenant, lane, number)
  local quota = read_quota(tenant)
  if quota.max_queued and number > 0 then
    local queued = redis.call('ZCARD', lane['i:queued']) + redis.call('ZCARD', lane['i:waiting'])
    if queued + number > tonumber(quota.max_queued) then
      return {'quota', 'max_queued', quota.max_queued, seconds_to_next_day(NOW)}
    end
  end
  local today = quota.day == TODAY and tonumber(quota.today or 0) or 0
  if quota.max_daily and today + number > tonumber(quota.max_daily) then
    return {'quota', 'max_daily', quota.max_daily, seconds_to_next_day(NOW)}
  end
  return nil, today
end

local function count_today(tenant, number) redis.call('HSET', tenant, 'day', TODAY, 'today', number) end
