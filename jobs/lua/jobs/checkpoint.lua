-- requires: billing
-- reads read_job: state, attempt, lane
--
-- Records the provider's answer and its cost, before anything else is done with the answer.
--
-- KEYS[6] job
-- ARGV[4] attempt   ARGV[5] the checkpoint, JSON; '' removes it   ARGV[6] cost in millionths of a dollar
-- ARGV[7] facts about the input image, JSON
-- Returns 1, or 0 where the attempt is no longer the job's: the worker must drop the answer. The cost counts in either
-- case, once an attempt: it was paid.

local job, attempt, checkpoint, cost, input = KEYS[6], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local r = read_job(job)
if not r.state then return 0 end
charge(job, attempt, r.lane, cost)
if r.state ~= 'running' or r.attempt ~= attempt or redis.call('HGET', r.lane, 'stopped') == '1' then return 0 end
if checkpoint == '' then
  redis.call('HDEL', job, 'checkpoint')
else
  redis.call('HSET', job, 'checkpoint', checkpoint, 'input', input)
end
return 1
