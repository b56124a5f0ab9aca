-- requires: base
-- reads read_schedule: cron, timezone
--
-- Lists schedules whose tick is due. The caller computes the following ticks; then schedules/fire claims them.
-- Nothing is claimed here.
--
-- KEYS[6] schedules due
-- ARGV[4] schedules of this call at most
-- Returns {now in ms, schedule key, tick in ms, cron expression, time zone, schedule key, …}.

local due, max_schedules = KEYS[6], ARGV[4]
local answer = {AT}
local found = redis.call('ZRANGEBYSCORE', due, '-inf', AT, 'WITHSCORES', 'LIMIT', 0, max_schedules)
for i = 1, #found, 2 do
  local key, tick = found[i], found[i + 1]
  local schedule = read_schedule(key)
  if schedule.cron then
    for _, value in ipairs({key, tick, schedule.cron, schedule.timezone}) do answer[#answer + 1] = value end
  else
    redis.call('ZREM', due, key)
  end
end
return answer
