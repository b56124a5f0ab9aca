-- requires: job_end
--
-- Failing a job from a script.

local function fail(job, lane, from, code, message, retryable)
  redis.call('HSET', job, 'error', cjson.encode({code = code, message = message, retryable = retryable}))
  finish(job, lane, from, 'failed')
end
