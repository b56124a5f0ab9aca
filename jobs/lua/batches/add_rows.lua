-- requires: common_keys, writes, counters, quota, job_submit
-- reads read_batch: state, n:ingest, row, gate, ingested
--
-- Turns some rows of a manifest into jobs and rejects, and records how far the batch has been read: all or nothing.
--
-- KEYS[6] batch   KEYS[7] tenant record   KEYS[8] the tenant's custom_id index   KEYS[9] the batch's rejects
-- KEYS[10] digests of its output places   KEYS[11] its lanes   KEYS[12…] one job key a good row
-- ARGV[4] JSON: {
--   number: of the reader's claim, from: rows read before, to: rows read after, mark: where a reader continues,
--   prefix: what the batch's job keys begin with,
--   lanes: [{key, trial: bool, fields: {…}, share: key, share_fields: {…}}],
--   jobs: [{lane: index into lanes from 1, row, due: ms | null, deadline: ms from now | null, custom: text | null,
--     place: digest, refusal: what its reject begins with, fields: [field, text, …]}],
--   refused: [[row, JSON]] }
-- Returns {'ok', jobs written, rows rejected} | {'elsewhere', rows read}: another reader has taken over
--      | {'over', state of the batch}: it takes no more rows
--      | {'quota', which, limit, seconds until the next UTC day}

local batch, tenant, customs, rejects, places, lanes_of = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local FIRST_JOB = 11
local command = cjson.decode(ARGV[4])
local b = read_batch(batch)
if b.ingested == '1' or not b.state then return {'over', b.state or 'gone'} end
if b['n:ingest'] ~= tostring(command.number) or tonumber(b.row or 0) ~= command.from then
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

-- The batch's row that has this custom_id already, or nil.
local function row_named(custom)
  local low = custom .. '\0' .. command.prefix
  local found = redis.call('ZRANGEBYLEX', customs, '[' .. low, '(' .. low .. '\255', 'LIMIT', 0, 1)[1]
  return found and tonumber(string.sub(found, #low + 1))
end

local rejected = command.refused
local function reject(entry, field, message)
  local text = entry.refusal .. cjson.encode({{field = field, message = message, code = 'repeated'}}) .. '}'
  rejected[#rejected + 1] = {entry.row, text}
end

local written, trial = 0, 0
begin_counters()
for i, entry in ipairs(command.jobs) do
  local job, lane = KEYS[FIRST_JOB + i], command.lanes[entry.lane]
  local twin = entry.custom ~= cjson.null and row_named(entry.custom)
  if twin then
    reject(entry, 'custom_id', 'row ' .. twin .. ' has it already')
  elseif redis.call('SADD', places, entry.place) == 0 then
    reject(entry, 'output_key', 'an earlier row puts its result in the same place')
  else
    if entry.custom ~= cjson.null then redis.call('ZADD', customs, 0, entry.custom .. '\0' .. job) end
    submit_job(job, lane.key, entry.due, entry.deadline, entry.fields)
    if lane.trial then trial = trial + 1 end
    written = written + 1
  end
end

flush_counters()

table.sort(rejected, function(left, right) return left[1] < right[1] end)
for _, entry in ipairs(rejected) do redis.call('RPUSH', rejects, entry[2]) end
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
