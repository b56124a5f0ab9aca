-- requires: bulk, writes, counters, quota, job_submit
-- reads read_replay: body, jobs
--
-- Writes jobs and puts them on their lanes, all or none.
--
-- KEYS[6]   tenant record
-- KEYS[7]   the tenant's custom_id index
-- KEYS[8]   record of the Idempotency-Key; not touched where ARGV[4] names none
-- KEYS[9]   the batch's record; not touched for single jobs
-- KEYS[10…] one job key a job
-- ARGV[4] JSON: {
--   idempotency: null | {body: SHA-256, ttl_ms},
--   lanes: [{key, fields: {…}, share: key, share_fields: {…}}],
--   jobs: [{lane: index into lanes from 1, due: ms | null, deadline_ms: ms from now | null, custom: text | null,
--     fields: {…}}] }
-- Returns {'ok', the state of each job in order, separated by spaces}; a job that exists already is left as it is
--      or {'replayed', job key …} | {'mismatch'} | {'quota', which, limit, seconds until the next UTC day}.

local tenant, customs, idempotency = KEYS[6], KEYS[7], KEYS[8]
local FIRST_JOB = 9
local command = cjson.decode(ARGV[4])

if command.idempotency ~= cjson.null then
  local earlier = read_replay(idempotency)
  if earlier.body then
    if earlier.body ~= command.idempotency.body then return {'mismatch'} end
    local answer = {'replayed'}
    for job in string.gmatch(earlier.jobs, '[^\n]+') do answer[#answer + 1] = job end
    return answer
  end
end

-- Jobs that exist already were written by the same call, whose answer was lost.
local states, number_new = {}, 0
for i = 1, #command.jobs do
  states[i] = redis.call('HGET', KEYS[FIRST_JOB + i], 'state')
  if not states[i] then number_new = number_new + 1 end
end

local refusal, today = check_quota(tenant, command.lanes[1].fields, number_new)
if refusal then return refusal end

for _, lane in ipairs(command.lanes) do
  write_if_missing(lane.key, lane.fields)
  write_if_missing(lane.share, lane.share_fields)
end

local names, named = {}, {}
begin_counters()
for i, entry in ipairs(command.jobs) do
  local job = KEYS[FIRST_JOB + i]
  names[i] = job
  if not states[i] then
    local fields = {}
    for field, value in pairs(entry.fields) do
      fields[#fields + 1] = field
      fields[#fields + 1] = value
    end
    states[i] = submit_job(job, command.lanes[entry.lane].key, entry.due, entry.deadline_ms, fields)
    if entry.custom ~= cjson.null then
      named[#named + 1] = 0
      named[#named + 1] = entry.custom .. '\0' .. job
    end
  end
end

flush_counters()
in_chunks('ZADD', customs, named)
count_today(tenant, today + number_new)
if command.idempotency ~= cjson.null then
  redis.call('HSET', idempotency, 'body', command.idempotency.body, 'jobs', table.concat(names, '\n'))
  redis.call('PEXPIRE', idempotency, command.idempotency.ttl_ms)
end
return {'ok', table.concat(states, ' ')}
