-- What scripts that change a job's state use, after core.lua and the table ALLOWED (states.TRANSITIONS).

local MOST_LOST = 3

-- What a lane's record says, all of it for the length of a call: read once. (A table whose fields are named where it is
-- made costs half of one that grows.)
local cards = {}
local function card_of(lane)
  local card = cards[lane]
  if card then return card end
  local l = redis.call('HMGET', lane, 'list', 'share', 'model', 'tenant', 'batch', 'owner', 'trial', 'totals', 'weight',
    'price', 'stopped', 'i:queued', 'i:waiting', 'i:running', 'i:succeeded', 'i:filtered', 'i:failed', 'i:canceled')
  card = {
    list = l[1], share = l[2], model = l[3], tenant = l[4], batch = l[5], owner = l[6], trial = l[7], totals = l[8],
    weight = l[9], price = l[10], stopped = l[11],
    index = {queued = l[12], waiting = l[13], running = l[14], succeeded = l[15], filtered = l[16], failed = l[17],
      canceled = l[18]},
  }
  cards[lane] = card
  return card
end

-- Where there is none, a record is written with these fields.
local function make(key, fields)
  if redis.call('EXISTS', key) == 1 then return end
  local flat = {}
  for field, value in pairs(fields) do
    flat[#flat + 1] = field
    flat[#flat + 1] = value
  end
  redis.call('HSET', key, unpack(flat))
end

-- A command with many values, as many at a time as Lua can unpack.
local function in_parts(command, key, values)
  for first = 1, #values, 1000 do
    redis.call(command, key, unpack(values, first, math.min(first + 999, #values)))
  end
end

-- Counts, entries of indexes and what goes to the end of lanes are written one by one; a script that moves many jobs
-- gathers them, and books them by the key.
local gathered
local function gather() gathered = {sums = {}, struck = {}, listed = {}, lines = {}} end

-- Adds to a count; returns what it has become, or nil while counts are gathered.
local function add(key, field, by)
  if not gathered then return redis.call('HINCRBY', key, field, by) end
  local sums = gathered.sums[key] or {}
  sums[field] = (sums[field] or 0) + by
  gathered.sums[key] = sums
end

local function strike(index, job)
  if not gathered then return redis.call('ZREM', index, job) end
  local struck = gathered.struck[index] or {}
  struck[#struck + 1] = job
  gathered.struck[index] = struck
end

local function enlist(index, job)
  if not gathered then return redis.call('ZADD', index, 0, job) end
  local listed = gathered.listed[index] or {}
  listed[#listed + 1] = 0
  listed[#listed + 1] = job
  gathered.listed[index] = listed
end

-- The first score of a sorted set, or nil where it is empty.
local function first_score(zset)
  local top = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')
  return tonumber(top[2])
end

-- A lane with something queued takes its place in its share, and the share in the model's ring.
-- One that comes back after being idle starts at the present virtual time: idleness earns no credit.
local function activate(lane)
  local l = redis.call('HMGET', lane, 'share', 'tag', 'held')
  if l[3] == '1' then return end
  local s = redis.call('HMGET', l[1], 'lanes', 'ring', 'tag', 'v', 'model', 'stalled')
  if not redis.call('ZSCORE', s[1], lane) then
    local v = first_score(s[1]) or tonumber(s[4] or 0)
    redis.call('ZADD', s[1], exact(math.max(v, tonumber(l[2] or 0))), lane)
  end
  if s[6] ~= '1' and not redis.call('ZSCORE', s[2], l[1]) then
    local v = first_score(s[2]) or tonumber(redis.call('HGET', s[5], 'v') or 0)
    redis.call('ZADD', s[2], exact(math.max(v, tonumber(s[3] or 0))), l[1])
  end
end

local function enqueue(job, lane, front)
  if gathered and not front then
    local line = gathered.lines[lane] or {}
    line[#line + 1] = job
    gathered.lines[lane] = line
    return
  end
  redis.call(front and 'LPUSH' or 'RPUSH', card_of(lane).list, job)
  activate(lane)
end

local function book()
  if not gathered then return end
  local all = gathered
  gather()
  for key, sums in pairs(all.sums) do
    for field, by in pairs(sums) do
      if by ~= 0 then redis.call('HINCRBY', key, field, by) end
    end
  end
  for index, jobs in pairs(all.struck) do in_parts('ZREM', index, jobs) end
  for index, jobs in pairs(all.listed) do in_parts('ZADD', index, jobs) end
  for lane, line in pairs(all.lines) do
    in_parts('RPUSH', card_of(lane).list, line)
    activate(lane)
  end
end

-- A held lane stands outside its share: the plan does not see it, however long it is.
local function hold(lane)
  local lanes = redis.call('HGET', redis.call('HGET', lane, 'share'), 'lanes')
  local tag = redis.call('ZSCORE', lanes, lane)
  redis.call('HSET', lane, 'held', '1')
  if tag then
    redis.call('HSET', lane, 'tag', tag)
    redis.call('ZREM', lanes, lane)
  end
end

local function release(lane)
  redis.call('HDEL', lane, 'held')
  redis.call('HSET', lane, 'since', AT)
  if redis.call('LLEN', redis.call('HGET', lane, 'list')) > 0 then activate(lane) end
end

local function hold_batch(batch)
  for _, lane in ipairs(redis.call('SMEMBERS', redis.call('HGET', batch, 'lanes'))) do hold(lane) end
end

-- An event goes into the outbox in the same step as the change it tells of.
local function emit(kind, tenant, subject, data)
  redis.call('XADD', OUTBOX, '*', 'type', kind, 'tenant', tenant, 'subject', subject, 'at', AT, 'data', data)
end

local function emit_batch(kind, batch)
  book()
  emit('batch.' .. kind, redis.call('HGET', batch, 'tenant'), batch, cjson.encode(fields_of(batch)))
  -- The run of a schedule that made it looks at it again once it has ended.
  local b = redis.call('HMGET', batch, 'run', 'finished', 'chores')
  if b[1] and b[2] and redis.call('EXISTS', b[1]) == 1 then redis.call('ZADD', b[3], AT, 'run ' .. b[1]) end
end

-- A batch whose last job has ended is completed; one whose trial has ended waits for a word. Each is told once, in the
-- step that brings it about.
local function advance(batch)
  book()
  local b = redis.call('HMGET', batch, 'state', 'ingested', 'queued', 'waiting', 'running', 'gate', 'trial_open',
    'chores', 'sweep')
  if b[2] ~= '1' or b[9] then return end
  if b[1] == 'completed' or b[1] == 'canceled' or b[1] == 'failed' then return end
  if tonumber(b[3] or 0) + tonumber(b[4] or 0) + tonumber(b[5] or 0) == 0 then
    redis.call('HSET', batch, 'state', 'completed', 'finished', AT)
    redis.call('HDEL', batch, 'reason')
    redis.call('ZADD', b[8], AT, 'results ' .. batch)
    emit_batch('completed', batch)
  elseif b[6] == 'trial' and tonumber(b[7] or 0) == 0 and b[1] ~= 'awaiting_approval' and b[1] ~= 'paused' then
    redis.call('HSET', batch, 'state', 'awaiting_approval', 'trial_ended', AT)
    emit_batch('awaiting_approval', batch)
  end
end

-- How many of a batch's jobs had come to an end by themselves when this beat of ten seconds began, and the one before:
-- its real rate.
local function begin_tick(batch, tick, last, to)
  local b = redis.call('HMGET', batch, 'ended_at_tick', 'succeeded', 'filtered', 'failed')
  local ended = tonumber(b[2] or 0) + tonumber(b[3] or 0) + tonumber(b[4] or 0)
  if to ~= 'canceled' then ended = ended - 1 end
  local just_before = last and tonumber(last) == tick - 1
  redis.call('HSET', batch, 'tick', tick, 'ended_at_tick', ended, 'ended_before', just_before and b[1] or ended)
end

-- A batch that had ended goes on: one of its jobs is tried again.
local function reopen(batch)
  local b = redis.call('HMGET', batch, 'state', 'lanes', 'chores')
  if b[1] ~= 'completed' and b[1] ~= 'canceled' then return end
  redis.call('ZREM', b[3], 'results ' .. batch)
  redis.call('PERSIST', b[2])
  redis.call('HSET', batch, 'state', 'running')
  redis.call('HDEL', batch, 'finished', 'reason', 'results_at')
  redis.call('PERSIST', batch)
  for _, lane in ipairs(redis.call('SMEMBERS', b[2])) do redis.call('PERSIST', lane) end
end

-- The one place where a job's state changes: record, index, counts of its model and of its batch. The jobs of a
-- canceled batch were counted when it was canceled, all at once, before their records are turned.
-- `fields`, a list of field, value, …, are written in the same step. Returns how many of the batch stay in the state
-- that was left, where that is known.
local function move(job, lane, from, to, counted, fields)
  if not ALLOWED[from .. '>' .. to] then
    error(redis.error_reply('ILLEGAL transition ' .. from .. ' to ' .. to .. ' of ' .. job).err)
  end
  local l = card_of(lane)
  local batch, left = not counted and l.batch ~= '' and l.batch, nil
  if from == 'new' then
    add(l.totals, 'submitted', 1)
  else
    strike(l.index[from], job)
    -- How many run is the model's in_flight; how many have ended, its total of ends less those that were tried again.
    if from == 'queued' or from == 'waiting' then
      add(l.model, 'n:' .. from, -1)
    elseif from ~= 'running' then
      add(l.totals, 'again:' .. from, 1)
    end
    if batch then left = add(batch, from, -1) end
  end
  -- The id of one that is queued at once tells since when.
  local written = fields or {}
  written[#written + 1] = 'state'
  written[#written + 1] = to
  if to == 'queued' and from ~= 'new' then
    written[#written + 1] = 'queued'
    written[#written + 1] = AT
  end
  redis.call('HSET', job, unpack(written))
  enlist(l.index[to], job)
  if to == 'queued' or to == 'waiting' then add(l.model, 'n:' .. to, 1) end
  if batch then add(batch, to, 1) end
  return left
end

-- The part of its batch's budget that an attempt holds until its price is known, or until it ends. Of a job that was
-- canceled and tried again, two attempts may be under way.
local function unreserve(job, attempt, batch)
  local field = 'reserved:' .. attempt
  local price = redis.call('HGET', job, field)
  if not price then return end
  redis.call('HDEL', job, field)
  redis.call('HINCRBY', batch, 'reserved', -tonumber(price))
end

-- What an attempt cost, or may have cost, counts once however often it is said, and whatever became of the job.
local function charge(job, attempt, lane, cost)
  if cost <= 0 then return end
  local before = redis.call('HMGET', job, 'paid', 'again_after', 'cost')
  if before[1] == attempt then return end
  redis.call('HSET', job, 'paid', attempt)
  redis.call('HINCRBY', job, 'cost', cost)
  local l = card_of(lane)
  local batch = l.batch
  redis.call('HINCRBY', l.totals, 'cost', cost)
  redis.call('HINCRBY', l.totals, 'paid', 1)
  -- A job that succeeded has no last paid attempt any more.
  if before[3] and tonumber(before[1] or math.huge) > tonumber(before[2] or 0) then
    redis.call('HINCRBY', l.totals, 'paid_again', 1)
  end
  if batch ~= '' then
    redis.call('HINCRBY', batch, 'cost', cost)
    unreserve(job, attempt, batch)
    -- What it was suspected of is known now.
    if redis.call('HGET', job, 'suspected') == attempt then
      redis.call('HDEL', job, 'suspected')
      redis.call('HINCRBY', batch, 'unknown', -tonumber(l.price or 0))
    end
  end
end

-- A call that was under way when its worker was lost may have been billed: its batch's budget counts it as spent. One
-- that goes on from a recorded answer buys nothing.
local function suspect(job, attempt, lane)
  local l = card_of(lane)
  if l.batch == '' or tonumber(l.price or 0) == 0 then return end
  local r = redis.call('HMGET', job, 'paid', 'checkpoint', 'suspected')
  if r[1] == attempt or r[2] or r[3] == attempt then return end
  redis.call('HSET', job, 'suspected', attempt)
  redis.call('HINCRBY', l.batch, 'unknown', l.price)
end

-- The attempt log (or nil) with one line more; it keeps its newest 8 KB, whole lines.
local function with_line(log, line)
  log = (log or '') .. line .. '\n'
  while #log > 8192 do log = string.sub(log, string.find(log, '\n', 1, true) + 1) end
  return log
end

local function log_attempt(job, line)
  redis.call('HSET', job, 'log', with_line(redis.call('HGET', job, 'log'), line))
end

-- A job comes to its end: state, time, expiry, event, and whoever waits for it is woken.
local function finish(job, lane, from, to, counted, fields)
  fields = fields or {}
  -- A success's log has the moment, and records are counted by the hundred thousand.
  if to ~= 'succeeded' then
    fields[#fields + 1] = 'finished'
    fields[#fields + 1] = AT
  end
  local left = move(job, lane, from, to, counted, fields)
  local own = redis.call('HMGET', job, 'tell', 'deadline')
  if own[2] then redis.call('ZREM', DEADLINES, job) end
  redis.call('PEXPIRE', job, RETENTION)
  redis.call('PUBLISH', job, to)
  local l = card_of(lane)
  add(l.totals, 'ended:' .. to, 1)
  local single = l.batch == ''
  local b = single and redis.call('HMGET', l.tenant, 'listening')
    or redis.call('HMGET', l.batch, 'tell', 'tick', 'traceparent')
  if b[1] == '1' or own[1] == '1' then
    local data = fields_of(job)
    -- A batch keeps its submitter's once for all its jobs.
    data.traceparent = b[3] or nil
    emit('job.' .. to, l.owner, job, cjson.encode(data))
  end
  if single or counted then return end
  book()
  local tick = math.floor(NOW / 10000)
  if b[2] ~= tostring(tick) then begin_tick(l.batch, tick, b[2], to) end
  if l.trial == '1' then redis.call('HINCRBY', l.batch, 'trial_open', -1) end
  -- A batch has not come to anything while others of it stay where this one was.
  if left == 0 or l.trial == '1' or not left then advance(l.batch) end
end

-- A job of a canceled batch: its record follows what the batch has said already. True where that is so.
local function turned(job, lane, from)
  if card_of(lane).stopped ~= '1' then return false end
  redis.call('ZREM', WAITING, job)
  finish(job, lane, from, 'canceled', true)
  return true
end

local function fail(job, lane, from, code, message, retryable)
  redis.call('HSET', job, 'error', cjson.encode({code = code, message = message, retryable = retryable}))
  finish(job, lane, from, 'failed')
end

-- An ended job is tried again, its tries counted anew, within `deadline` ms if given.
local function again(job, lane, from, batch, trial, deadline)
  redis.call('PERSIST', job)
  redis.call('HDEL', job, 'finished', 'error', 'tries', 'lost', 'claimed', 'worker', 'holder', 'deadline')
  local attempt = redis.call('HGET', job, 'attempt')
  if attempt then redis.call('HSET', job, 'again_after', attempt) end
  if deadline then
    redis.call('HSET', job, 'deadline', exact(NOW + deadline))
    redis.call('ZADD', DEADLINES, exact(NOW + deadline), job)
  end
  move(job, lane, from, 'queued')
  enqueue(job, lane, true)
  if trial == '1' then
    redis.call('HINCRBY', batch, 'trial_open', 1)
    if redis.call('HGET', batch, 'state') == 'awaiting_approval' then redis.call('HSET', batch, 'state', 'running') end
  end
end

-- A tenant below its most in flight again: its stalled shares return to their rings.
local function unstall(tenant, in_flight)
  local t = redis.call('HMGET', tenant, 'stalled', 'max_in_flight')
  if not t[1] or t[2] and in_flight >= tonumber(t[2]) or redis.call('SCARD', t[1]) == 0 then return end
  for _, share in ipairs(redis.call('SMEMBERS', t[1])) do
    redis.call('HDEL', share, 'stalled')
    local s = redis.call('HMGET', share, 'lanes', 'ring', 'tag', 'model')
    if redis.call('ZCARD', s[1]) > 0 then
      local v = first_score(s[2]) or tonumber(redis.call('HGET', s[4], 'v') or 0)
      redis.call('ZADD', s[2], exact(math.max(v, tonumber(s[3] or 0))), share)
    end
  end
  redis.call('DEL', t[1])
end

-- An attempt whose lease has been given up no longer occupies its model's window, whatever became of its job.
local function leave_window(job, attempt, lane)
  local l = card_of(lane)
  redis.call('HINCRBY', l.model, 'in_flight', -1)
  if l.batch ~= '' then unreserve(job, attempt, l.batch) end
  unstall(l.tenant, redis.call('HINCRBY', l.tenant, 'in_flight', -1))
end

-- True if it was the probe.
local function forget_probe(model, member)
  if redis.call('HGET', model, 'probe') ~= member then return false end
  redis.call('HDEL', model, 'probe')
  return true
end
