-- requires: nothing
--
-- The log of a job's attempts: lines of JSON. It keeps its newest 8 KB, in whole lines.

local MAX_LOG_BYTES = 8192

-- Returns the log with one more line; `log` is false where there is none yet.
local function with_line(log, line)
  log = (log or '') .. line .. '\n'
  while #log > MAX_LOG_BYTES do log = string.sub(log, string.find(log, '\n', 1, true) + 1) end
  return log
end

local function log_attempt(job, line)
  redis.call('HSET', job, 'log', with_line(redis.call('HGET', job, 'log'), line))
end
