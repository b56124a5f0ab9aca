-- requires: base, common_keys, lanes, counters, job_state, job_end, billing, window, attempt_log, model_feedback
-- reads read_job: state, attempt, lane, claimed, log, tries, tell, deadline
--
-- An attempt ends: its lease, the feedback about the endpoint's limits, and, if it is still the job's attempt, the job.
--
-- KEYS[6] job   KEYS[7] where an equal edit will find it; not touched where `entry` is null
-- ARGV[4] attempt
-- ARGV[5] JSON: {
--   to: succeeded | filtered | failed | waiting | queued, outcome: for the attempt's log and the counts,
--   drop: [field] to remove,
--   delay_ms: for waiting, cost: millionths of a dollar that it cost or may have cost,
--   count: whether the attempt uses up a try,
--   reused: whether the output is an equal edit's, suspect: whether a call under way is given up and may be billed,
--   entry: null | [field, name of the job, how long KEYS[7] lives in ms]: for equal edits to find,
--   signal: null | {kind: ok | rate | concurrency | trouble | park, limit, retry_after_ms, code, reason} }
-- ARGV[6] the attempt's line for the log   ARGV[7…] field, value, … to set
-- Returns 1, or 0 where the fence refused the job's part (the lease is given up all the same).

local job, equal_edits, attempt, command, line = KEYS[6], KEYS[7], ARGV[4], cjson.decode(ARGV[5]), ARGV[6]
local FIRST_FIELD = 7
local r = read_job(job)
if not r.state then return 0 end
local lane, record, member = r.lane, lane_record(r.lane), member_of(job, attempt)

local had_lease, was_probe = redis.call('ZREM', LEASES, member) == 1, false
if had_lease then
  local call = {model = record.model, totals = record.totals, member = member, claimed = r.claimed}
  was_probe = apply_signal(call, command.signal)
  leave_window(job, attempt, lane)
  if command.suspect then suspect(job, attempt, lane) end
end
charge(job, attempt, lane, command.cost)
-- The outcome of a canceled job's call is still logged.
if r.state == 'canceled' and r.attempt == attempt and had_lease then log_attempt(job, line) end

if r.state ~= 'running' or r.attempt ~= attempt or cancel_with_batch(job, lane, 'running') then
  -- If this end was written before, its answer was lost and the call was sent again.
  local last = r.state == command.to and r.log and string.match(r.log, '([^\n]*)\n$')
  local repeated = last and string.find(last, '"number":' .. attempt .. ',', 1, true)
    and string.find(last, '"outcome":"' .. command.outcome .. '"', 1, true)
  if repeated then return 1 end
  redis.call('HINCRBY', record.totals, 'refused', 1)
  return 0
end

-- The log has the same end as the event: the server's.
local written = {'log', with_line(r.log, (string.gsub(line, '"finished_ms":%d+', '"finished_ms":' .. AT, 1)))}
for i = FIRST_FIELD, #ARGV do written[#written + 1] = ARGV[i] end
local drop
if command.to == 'succeeded' then
  -- A job that succeeded is never retried, and its log has the moments.
  drop = {'claimed', 'worker', 'holder', 'tries', 'attempt', 'started', unpack(command.drop)}
  -- Of a later attempt `paid` stays: an earlier attempt that seemed lost may still report its cost.
  if attempt == '1' then drop[#drop + 1] = 'paid' end
else
  drop = {'claimed', 'worker', 'holder', unpack(command.drop)}
  if command.count then
    written[#written + 1] = 'tries'
    written[#written + 1] = (tonumber(r.tries) or 0) + 1
  end
end
redis.call('HDEL', job, unpack(drop))

if command.to == 'waiting' then
  move(job, lane, 'running', 'waiting', false, written)
  local due = NOW + command.delay_ms
  -- Another job, if there is one, becomes the next probe: this job's image may be the cause of its failure.
  if was_probe then due = math.max(due, tonumber(redis.call('HGET', record.model, 'park_until') or 0) + 1) end
  redis.call('ZADD', WAITING, exact(due), job)
elseif command.to == 'queued' then
  move(job, lane, 'running', 'queued', false, written)
  enqueue(job, lane, true)
else
  if record.batch ~= '' then
    if r.claimed then redis.call('HINCRBY', record.batch, 'busy_ms', NOW - tonumber(r.claimed)) end
    if command.reused then redis.call('HINCRBY', record.batch, 'reused', 1) end
  end
  if command.to == 'succeeded' and command.entry ~= cjson.null then
    local field, name, lives_ms = unpack(command.entry)
    redis.call('HSET', equal_edits, field, name)
    redis.call('PEXPIRE', equal_edits, lives_ms)
  end
  finish(job, lane, 'running', command.to, false, written, r)
end
-- A success is counted as the end of its job.
if command.outcome ~= 'succeeded' then redis.call('HINCRBY', record.totals, 'outcome:' .. command.outcome, 1) end
if command.reused then redis.call('HINCRBY', record.totals, 'reused', 1) end
return 1
