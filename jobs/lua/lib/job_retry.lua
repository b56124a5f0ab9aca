-- requires: base, common_keys, counters, job_state
--
-- A retry of an ended job by its user.

-- Puts an ended job at the front of its lane, and resets its count of tries. deadline_ms: how long it has from now, or nil;
-- trial: '1' where it belongs to its batch's trial.
local function retry_job(job, lane, from, batch, trial, deadline_ms)
  redis.call('PERSIST', job)
  redis.call('HDEL', job, 'finished', 'error', 'tries', 'lost', 'claimed', 'worker', 'holder', 'deadline')
  local attempt = redis.call('HGET', job, 'attempt')
  if attempt then redis.call('HSET', job, 'again_after', attempt) end
  if deadline_ms then
    local deadline = exact(NOW + deadline_ms)
    redis.call('HSET', job, 'deadline', deadline)
    redis.call('ZADD', DEADLINES, deadline, job)
  end
  move(job, lane, from, 'queued')
  enqueue(job, lane, true)
  if trial == '1' then
    redis.call('HINCRBY', batch, 'trial_open', 1)
    if redis.call('HGET', batch, 'state') == 'awaiting_approval' then redis.call('HSET', batch, 'state', 'running') end
  end
end
