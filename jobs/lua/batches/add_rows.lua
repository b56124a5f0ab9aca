-- requires: common_keys, writes, counters, quota, job_submit
-- reads read_batch: state, n:ingest, row, gate, ingested
--
-- Writes some rows of a manifest as jobs and rejects, and records how far the batch has been read. One call writes all
-- of them or none.
--
-- KEYS[6] batch   KEYS[7] tenant record   KEYS[8] the tenant's custom_id index   KEYS[9] the batch's rejects
-- KEYS[10] digests of its output keys   KEYS[11] its lanes   KEYS[12…] one job key for each entry of `jobs`
-- ARGV[4] JSON: {
--   claim: number of the reader's claim, from: rows read before, to: rows read after, mark: where the next reader
--     continues, job_prefix: prefix of the batch's job keys,
--   lanes: [{key, trial: bool, fields: {…}, share: key, share_fields: {…}}],
--   jobs: [{lane: index into lanes from 1, row, line, custom_id: text | null, due: ms since 1970 | null,
--     deadline: ms from now | null, output: digest of its output key, fields: [field, text, …]}],
--   rejects: [{row, line, custom_id: text | null, errors: [{field, message, code}]}] }
-- A reject is stored as the JSON of its entry.
-- Returns {'ok', jobs written, rows rejected} | {'elsewhere', rows read}: another reader has taken over
--      | {'over', state of the batch}: it accepts no more rows
--      | {'quota', which, limit, seconds until the next UTC day}

local batch, tenant, customs, rejects, outputs, lanes_of = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local FIRST_JOB = 11
local command = cjson.decode(ARGV[4])
local b = read_batch(batch)
if b.ingested == '1' or not b.state then return {'over', b.state or 'gone'} end
if b['n:ingest'] ~= tostring(command.claim) or tonumber(b.row or 0) ~= command.from then
  return {'elsewhere', b.row or '0'}
end

local first_lane = command.lanes[1] or {}
local refusal, today = check_quota(tenant, first_lane.fields, #command.jobs)
if refusal then return refusal end

for _, lane in ipairs(command.lanes) do
  if redis.call('SADD', lanes_of, lane.key) == 1 then
    write_if_missing(lane.key, lane.fields)
    if b.state == 'paused' or (b.gate == 'trial' and not lane.trial) then redis.call('HSET', lane.key, 'held', '1') end
    write_if_missing(lane.share, lane.share_fields)
  end
end

-- The batch's earlier row with this custom_id, or nil.
local function row_named(custom_id)
  local low = custom_id .. '\0' .. command.job_prefix
  local found = redis.call('ZRANGEBYLEX', customs, '[' .. low, '(' .. low .. '\255', 'LIMIT', 0, 1)[1]
  return found and tonumber(string.sub(found, #low + 1))
end

local rejected = command.rejects
local function reject(entry, field, message)
  rejected[#rejected + 1] = {row = entry.row, line = entry.line, custom_id = entry.custom_id,
    errors = {{field = field, message = message, code = 'repeated'}}}
end

local written, trial = 0, 0
begin_counters()
for i, entry in ipairs(command.jobs) do
  local job, lane = KEYS[FIRST_JOB + i], command.lanes[entry.lane]
  local twin = entry.custom_id ~= cjson.null and row_named(entry.custom_id)
  if twin then
    reject(entry, 'custom_id', 'row ' .. twin .. ' has it already')
  elseif redis.call('SADD', outputs, entry.output) == 0 then
    reject(entry, 'output_key', 'an earlier row has the same output key')
  else
    if entry.custom_id ~= cjson.null then redis.call('ZADD', customs, 0, entry.custom_id .. '\0' .. job) end
    submit_job(job, lane.key, entry.due, entry.deadline, entry.fields)
    if lane.trial then trial = trial + 1 end
    written = written + 1
  end
end

flush_counters()

table.sort(rejected, function(left, right) return left.row < right.row end)
for _, entry in ipairs(rejected) do redis.call('RPUSH', rejects, cjson.encode(entry)) end
if #rejected > 0 then redis.call('HINCRBY', batch, 'rejected', #rejected) end
redis.call('HINCRBY', FLEET, 'rows:accepted', written)
redis.call('HINCRBY', FLEET, 'rows:rejected', #rejected)
if trial > 0 then
  redis.call('HINCRBY', batch, 'trial_open', trial)
  redis.call('HINCRBY', batch, 'trial_rows', trial)
end
count_today(tenant, today + written)
redis.call('HSET', batch, 'row', command.to, 'mark', command.mark)
redis.call('HDEL', batch, 'waits_for')
return {'ok', written, #rejected}
