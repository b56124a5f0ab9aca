-- Jobs are written and put on their lanes, or nothing is.
--
-- KEYS[6]   tenant record
-- KEYS[7]   the tenant's custom_id index
-- KEYS[8]   what the Idempotency-Key stands for; not touched where ARGV[4] names none
-- KEYS[9]   the batch's record; not touched for single jobs
-- KEYS[10…] one job key a job
-- ARGV[4] JSON: {
--   idempotency: null | {body: SHA-256, ttl_ms},
--   day: the UTC day as YYYY-MM-DD, for the daily quota,
--   lanes: [{key, fields: {…}, share: key, share_fields: {…}}],
--   jobs: [{lane: index into lanes from 1, due: ms | null, deadline: ms | null, custom: text | null, fields: {…}}] }
-- Returns {'ok', number written} (a job that is there already is left as it is)
--      or {'replayed', job key …} | {'mismatch'} | {'quota', which, limit}.

local tenant, customs, idempotency = KEYS[6], KEYS[7], KEYS[8]
local order = cjson.decode(ARGV[4])

if order.idempotency ~= cjson.null then
  local earlier = redis.call('HMGET', idempotency, 'body', 'jobs')
  if earlier[1] then
    if earlier[1] ~= order.idempotency.body then return {'mismatch'} end
    local answer = {'replayed'}
    for job in string.gmatch(earlier[2], '[^\n]+') do answer[#answer + 1] = job end
    return answer
  end
end

-- Of jobs that are there already the same call came before, and its answer was lost.
local fresh, number_fresh = {}, 0
for i = 1, #order.jobs do
  fresh[i] = redis.call('EXISTS', KEYS[9 + i]) == 0
  if fresh[i] then number_fresh = number_fresh + 1 end
end

local quota = redis.call('HMGET', tenant, 'max_queued', 'max_daily', 'day', 'today')
if quota[1] and number_fresh > 0 then
  local l = order.lanes[1].fields
  local queued = redis.call('ZCARD', l['i:queued']) + redis.call('ZCARD', l['i:waiting'])
  if queued + number_fresh > tonumber(quota[1]) then return {'quota', 'max_queued', quota[1]} end
end
local today = quota[3] == order.day and tonumber(quota[4] or 0) or 0
if quota[2] and today + number_fresh > tonumber(quota[2]) then return {'quota', 'max_daily', quota[2]} end

for _, lane in ipairs(order.lanes) do
  make(lane.key, lane.fields)
  make(lane.share, lane.share_fields)
end

local written, names, named = 0, {}, {}
gather()
for i, entry in ipairs(order.jobs) do
  local job, lane = KEYS[9 + i], order.lanes[entry.lane].key
  names[i] = job
  if fresh[i] then
    local flat = {'lane', lane}
    for field, value in pairs(entry.fields) do
      flat[#flat + 1] = field
      flat[#flat + 1] = value
    end
    if entry.due ~= cjson.null and entry.due > NOW then
      move(job, lane, 'new', 'waiting', false, flat)
      redis.call('ZADD', WAITING, exact(entry.due), job)
    else
      move(job, lane, 'new', 'queued', false, flat)
      enqueue(job, lane)
    end
    if entry.deadline ~= cjson.null then redis.call('ZADD', DEADLINES, exact(entry.deadline), job) end
    if entry.custom ~= cjson.null then
      named[#named + 1] = 0
      named[#named + 1] = entry.custom .. '\0' .. job
    end
    written = written + 1
  end
end

book()
in_parts('ZADD', customs, named)
redis.call('HSET', tenant, 'day', order.day, 'today', today + written)
if order.idempotency ~= cjson.null then
  redis.call('HSET', idempotency, 'body', order.idempotency.body, 'jobs', table.concat(names, '\n'))
  redis.call('PEXPIRE', idempotency, order.idempotency.ttl_ms)
end
return {'ok', written}
