-- requires: base, common_keys, counters, job_state
--
-- Writing one new job, the same for single jobs and for rows of a batch.

-- Writes a job into its lane. due: ms since 1970 before which it waits, or cjson.null; deadline_ms: how long it has
-- from now, or cjson.null; fields: a list of field, value, …, which is changed.
-- Returns its state: 'queued' or 'waiting'.
local function submit_job(job, lane, due, deadline_ms, fields)
  fields[#fields + 1] = 'lane'
  fields[#fields + 1] = lane
  if deadline_ms ~= cjson.null then
    local deadline = exact(NOW + deadline_ms)
    fields[#fields + 1] = 'deadline'
    fields[#fields + 1] = deadline
    redis.call('ZADD', DEADLINES, deadline, job)
  end
  if due ~= cjson.null and due > NOW then
    move(job, lane, 'new', 'waiting', false, fields)
    redis.call('ZADD', WAITING, exact(due), job)
    return 'waiting'
  end
  move(job, lane, 'new', 'queued', false, fields)
  enqueue(job, lane)
  return 'queued'
end
