-- requires: job_end
--
-- A script fails a job.

local function fail(job, lane, from, code, message, retryable)
  redis.call('HSET', job, 'error', cjson.encode({code = code, message = message, retryable = retryable}))
  finish(job, lane, from, 'failed')
end
