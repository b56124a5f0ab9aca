-- A stretch of a manifest becomes jobs and refusals, and the batch says how far it has come: all of it or nothing.
--
-- KEYS[6] batch   KEYS[7] tenant record   KEYS[8] the tenant's custom_id index   KEYS[9] the batch's refusals
-- KEYS[10] digests of the places of its results   KEYS[11] its lanes   KEYS[12…] one job key a good row
-- ARGV[4] JSON: {
--   number: of the reader's claim, from: rows read before, to: rows read after, mark: where a reader goes on,
--   day: the UTC day as YYYY-MM-DD, for the daily quota, prefix: what the batch's job keys begin with,
--   lanes: [{key, trial: bool, fields: {…}, share: key, share_fields: {…}}],
--   jobs: [{lane: index into lanes from 1, row, due: ms | null, deadline: ms | null, custom: text | null,
--     place: digest, refusal: what its refusal begins with, fields: [field, text, …]}],
--   refused: [[row, JSON]] }
-- Returns {'ok', jobs written, rows refused} | {'elsewhere', rows read}: another reader is at it, or was faster
--      | {'over', state of the batch}: it takes no rows any more | {'quota', which, limit}

local batch, tenant, customs, rejects, places, lanes_of = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local order = cjson.decode(ARGV[4])
local b = redis.call('HMGET', batch, 'state', 'n:ingest', 'row', 'gate', 'ingested')
if b[5] == '1' or not b[1] then return {'over', b[1] or 'gone'} end
if b[2] ~= tostring(order.number) or tonumber(b[3] or 0) ~= order.from then return {'elsewhere', b[3] or '0'} end

local quota = redis.call('HMGET', tenant, 'max_queued', 'max_daily', 'day', 'today')
if quota[1] and #order.jobs > 0 then
  local l = order.lanes[1].fields
  local queued = redis.call('ZCARD', l['i:queued']) + redis.call('ZCARD', l['i:waiting'])
  if queued + #order.jobs > tonumber(quota[1]) then return {'quota', 'max_queued', quota[1]} end
end
local today = quota[3] == order.day and tonumber(quota[4] or 0) or 0
if quota[2] and today + #order.jobs > tonumber(quota[2]) then return {'quota', 'max_daily', quota[2]} end

for _, lane in ipairs(order.lanes) do
  if redis.call('SADD', lanes_of, lane.key) == 1 then
    make(lane.key, lane.fields)
    if b[1] == 'paused' or (b[4] == 'trial' and not lane.trial) then redis.call('HSET', lane.key, 'held', '1') end
    make(lane.share, lane.share_fields)
  end
end

-- The row that has this custom_id already, or nil.
local function row_named(custom)
  local low = custom .. '\0' .. order.prefix
  local found = redis.call('ZRANGEBYLEX', customs, '[' .. low, '(' .. low .. '\255', 'LIMIT', 0, 1)[1]
  return found and tonumber(string.sub(found, #low + 1))
end

local refused = order.refused
local function refuse(entry, field, message)
  local text = entry.refusal .. cjson.encode({{field = field, message = message, code = 'repeated'}}) .. '}'
  refused[#refused + 1] = {entry.row, text}
end

local written, trial = 0, 0
gather()
for i, entry in ipairs(order.jobs) do
  local job, lane = KEYS[11 + i], order.lanes[entry.lane]
  local twin = entry.custom ~= cjson.null and row_named(entry.custom)
  if twin then
    refuse(entry, 'custom_id', 'row ' .. twin .. ' has it already')
  elseif redis.call('SADD', places, entry.place) == 0 then
    refuse(entry, 'output_key', 'an earlier row puts its result in the same place')
  else
    local fields = {'lane', lane.key, unpack(entry.fields)}
    if entry.deadline ~= cjson.null then
      local deadline = exact(NOW + entry.deadline)
      fields[#fields + 1] = 'deadline'
      fields[#fields + 1] = deadline
      redis.call('ZADD', DEADLINES, deadline, job)
    end
    if entry.custom ~= cjson.null then redis.call('ZADD', customs, 0, entry.custom .. '\0' .. job) end
    if entry.due ~= cjson.null and entry.due > NOW then
      move(job, lane.key, 'new', 'waiting', false, fields)
      redis.call('ZADD', WAITING, exact(entry.due), job)
    else
      move(job, lane.key, 'new', 'queued', false, fields)
      enqueue(job, lane.key)
    end
    if lane.trial then trial = trial + 1 end
    written = written + 1
  end
end

book()

table.sort(refused, function(one, other) return one[1] < other[1] end)
for _, entry in ipairs(refused) do redis.call('RPUSH', rejects, entry[2]) end
if #refused > 0 then redis.call('HINCRBY', batch, 'rejected', #refused) end
redis.call('HINCRBY', FLEET, 'rows:accepted', written)
redis.call('HINCRBY', FLEET, 'rows:rejected', #refused)
if trial > 0 then
  redis.call('HINCRBY', batch, 'trial_open', trial)
  redis.call('HINCRBY', batch, 'trial_rows', trial)
end
redis.call('HSET', tenant, 'day', order.day, 'today', today + written)
redis.call('HSET', batch, 'row', order.to, 'mark', order.mark)
redis.call('HDEL', batch, 'waits_for')
return {'ok', written, #refused}
