-- Schedules whose tick has come. Whoever asks computes the ticks that follow; then schedule_fire claims. Nothing is
-- claimed here.
--
-- KEYS[6] schedules due
-- ARGV[4] most of this call
-- Returns {now in ms, schedule key, tick in ms, cron expression, time zone, schedule key, …}.

local answer = {AT}
local due = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', AT, 'WITHSCORES', 'LIMIT', 0, ARGV[4])
for i = 1, #due, 2 do
  local s = redis.call('HMGET', due[i], 'cron', 'timezone')
  if s[1] then
    answer[#answer + 1] = due[i]
    answer[#answer + 1] = due[i + 1]
    answer[#answer + 1] = s[1]
    answer[#answer + 1] = s[2]
  else
    redis.call('ZREM', KEYS[6], due[i])
  end
end
return answer
