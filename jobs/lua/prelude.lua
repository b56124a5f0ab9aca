-- Prepended to every script, after the table ALLOWED that planner.py makes from states.TRANSITIONS.
--
-- The spine, the same in every script that changes a job:
--   KEYS[1] leases     ZSET  job key#attempt -> end of the lease, ms
--   KEYS[2] waiting    ZSET  job key -> due, ms
--   KEYS[3] deadlines  ZSET  job key -> deadline, ms
--   KEYS[4] outbox     STREAM
--   KEYS[5] fleet      HASH
--   ARGV[1] now, ms since 1970; 0 takes the server's clock (the only clock of the fleet; tests give their own)
--   ARGV[2] retention of a finished job's record, ms
--   ARGV[3] length of a lease, ms
-- Records name the keys they belong with (job.lane; lane.list, .share, .model, .totals, .tenant, .batch, .i:STATE;
-- share.lanes, .ring; batch.lanes, .chores), so no key is ever put together here.

local LEASES, WAITING, DEADLINES, OUTBOX, FLEET = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local function clock()
  if ARGV[1] ~= '0' then return tonumber(ARGV[1]) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local NOW = clock()
local RETENTION = tonumber(ARGV[2])
local LEASE = tonumber(ARGV[3])
local MOST_LOST = 3
local SILENCE = LEASE / 3

local function exact(number) return string.format('%.17g', number) end

local function member_of(job, attempt) return job .. '#' .. attempt end

local function parts_of(member)
  local at = string.find(member, '#', 1, true)
  return string.sub(member, 1, at - 1), string.sub(member, at + 1)
end

-- Field-value list of HGETALL as a table.
local function fields_of(key)
  local flat, record = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return record
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
  redis.call(front and 'LPUSH' or 'RPUSH', redis.call('HGET', lane, 'list'), job)
  activate(lane)
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
  redis.call('HSET', lane, 'since', exact(NOW))
  if redis.call('LLEN', redis.call('HGET', lane, 'list')) > 0 then activate(lane) end
end

local function hold_batch(batch)
  for _, lane in ipairs(redis.call('SMEMBERS', redis.call('HGET', batch, 'lanes'))) do hold(lane) end
end

-- An event goes into the outbox in the same step as the change it tells of.
local function emit(kind, tenant, subject, data)
  redis.call('XADD', OUTBOX, '*', 'type', kind, 'tenant', tenant, 'subject', subject, 'at', exact(NOW), 'data', data)
end

local function emit_batch(kind, batch)
  emit('batch.' .. kind, redis.call('HGET', batch, 'tenant'), batch, cjson.encode(fields_of(batch)))
end

-- A batch whose last job has ended is completed; one whose trial has ended waits for a word. Each is told once, in the
-- step that brings it about.
local function advance(batch)
  local b = redis.call('HMGET', batch, 'state', 'ingested', 'queued', 'waiting', 'running', 'gate', 'trial_open',
    'chores', 'sweep')
  if b[2] ~= '1' or b[9] then return end
  if b[1] == 'completed' or b[1] == 'canceled' or b[1] == 'failed' then return end
  if tonumber(b[3] or 0) + tonumber(b[4] or 0) + tonumber(b[5] or 0) == 0 then
    redis.call('HSET', batch, 'state', 'completed', 'finished', exact(NOW))
    redis.call('HDEL', batch, 'reason')
    redis.call('ZADD', b[8], exact(NOW), 'results ' .. batch)
    emit_batch('completed', batch)
  elseif b[6] == 'trial' and tonumber(b[7] or 0) == 0 and b[1] ~= 'awaiting_approval' and b[1] ~= 'paused' then
    redis.call('HSET', batch, 'state', 'awaiting_approval', 'trial_ended', exact(NOW))
    emit_batch('awaiting_approval', batch)
  end
end

-- How many ended in this beat of ten seconds and in the one before: the batch's real rate.
local function count_end(batch)
  local tick = exact(math.floor(NOW / 10000))
  local b = redis.call('HMGET', batch, 'tick', 'ended')
  if b[1] == tick then
    redis.call('HINCRBY', batch, 'ended', 1)
  else
    local just_before = b[1] and tonumber(b[1]) == tonumber(tick) - 1
    redis.call('HSET', batch, 'tick', tick, 'ended', 1, 'ended_before', just_before and b[2] or '0')
  end
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
local function move(job, lane, from, to, counted)
  if not ALLOWED[from .. '>' .. to] then
    error(redis.error_reply('ILLEGAL transition ' .. from .. ' to ' .. to .. ' of ' .. job).err)
  end
  local l = redis.call('HMGET', lane, 'i:' .. from, 'i:' .. to, 'batch', 'model', 'totals')
  redis.call('HSET', job, 'state', to)
  -- The id of one that is queued at once tells since when.
  if to == 'queued' and from ~= 'new' then redis.call('HSET', job, 'queued', exact(NOW)) end
  if from == 'new' then redis.call('HINCRBY', l[5], 'submitted', 1) end
  if l[1] then
    redis.call('ZREM', l[1], job)
    redis.call('HINCRBY', l[4], 'n:' .. from, -1)
    if l[3] ~= '' and not counted then redis.call('HINCRBY', l[3], from, -1) end
  end
  redis.call('ZADD', l[2], 0, job)
  redis.call('HINCRBY', l[4], 'n:' .. to, 1)
  if l[3] ~= '' and not counted then redis.call('HINCRBY', l[3], to, 1) end
end

-- The part of its batch's budget that an attempt held until its price was known, or until it ended.
local function unreserve(job, batch)
  local price = redis.call('HGET', job, 'reserved')
  if not price then return end
  redis.call('HDEL', job, 'reserved')
  redis.call('HINCRBY', batch, 'reserved', -tonumber(price))
end

-- What an attempt cost, or may have cost, counts once however often it is said, and whatever became of the job.
local function charge(job, attempt, lane, cost)
  local before = redis.call('HMGET', job, 'paid', 'again_after', 'cost')
  if cost <= 0 or before[1] == attempt then return end
  redis.call('HSET', job, 'paid', attempt)
  redis.call('HINCRBY', job, 'cost', cost)
  local l = redis.call('HMGET', lane, 'batch', 'totals')
  local batch = l[1]
  redis.call('HINCRBY', l[2], 'cost', cost)
  redis.call('HINCRBY', l[2], 'paid', 1)
  -- A job that succeeded has no last paid attempt any more.
  if before[3] and tonumber(before[1] or math.huge) > tonumber(before[2] or 0) then
    redis.call('HINCRBY', l[2], 'paid_again', 1)
  end
  if batch ~= '' then
    redis.call('HINCRBY', batch, 'cost', cost)
    if redis.call('HGET', job, 'attempt') == attempt then unreserve(job, batch) end
  end
end

-- A call that was under way when its worker was lost may have been billed: its batch's budget counts it as spent.
local function suspect(job, attempt, lane)
  local l = redis.call('HMGET', lane, 'batch', 'price')
  if l[1] == '' or tonumber(l[2] or 0) == 0 or redis.call('HGET', job, 'paid') == attempt then return end
  redis.call('HINCRBY', l[1], 'unknown', l[2])
end

-- One line of the attempt log; the log keeps its newest 8 KB, whole lines.
local function log_attempt(job, line)
  local log = (redis.call('HGET', job, 'log') or '') .. line .. '\n'
  while #log > 8192 do log = string.sub(log, string.find(log, '\n', 1, true) + 1) end
  redis.call('HSET', job, 'log', log)
end

-- A job comes to its end: state, time, expiry, event, and whoever waits for it is woken.
local function finish(job, lane, from, to, counted)
  move(job, lane, from, to, counted)
  redis.call('HSET', job, 'finished', exact(NOW))
  redis.call('ZREM', DEADLINES, job)
  redis.call('PEXPIRE', job, RETENTION)
  redis.call('PUBLISH', job, to)
  local l = redis.call('HMGET', lane, 'tenant', 'batch', 'owner', 'trial', 'totals')
  redis.call('HINCRBY', l[5], 'ended:' .. to, 1)
  local single = l[2] == ''
  local asked = redis.call('HGET', single and l[1] or l[2], single and 'listening' or 'tell')
  if asked == '1' or redis.call('HGET', job, 'tell') == '1' then
    emit('job.' .. to, l[3], job, cjson.encode(fields_of(job)))
  end
  if single or counted then return end
  count_end(l[2])
  if l[4] == '1' then redis.call('HINCRBY', l[2], 'trial_open', -1) end
  advance(l[2])
end

-- A job of a canceled batch: its record follows what the batch has said already. True where that is so.
local function turned(job, lane, from)
  if redis.call('HGET', lane, 'stopped') ~= '1' then return false end
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
local function unstall(tenant)
  local t = redis.call('HMGET', tenant, 'stalled', 'in_flight', 'max_in_flight')
  if not t[1] or redis.call('SCARD', t[1]) == 0 then return end
  if t[3] and tonumber(t[2] or 0) >= tonumber(t[3]) then return end
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

-- An attempt no longer occupies its model's window, whatever became of its job. True if it did until now.
local function drop_lease(job, attempt, lane)
  local member = member_of(job, attempt)
  if redis.call('ZREM', LEASES, member) == 0 then return false end
  local l = redis.call('HMGET', lane, 'model', 'tenant', 'batch')
  redis.call('HINCRBY', l[1], 'in_flight', -1)
  redis.call('HINCRBY', l[2], 'in_flight', -1)
  if l[3] ~= '' then unreserve(job, l[3]) end
  unstall(l[2])
  return true
end

local function forget_probe(model, member)
  if redis.call('HGET', model, 'probe') == member then redis.call('HDEL', model, 'probe') end
end

-- Where nobody reached the store for a while, leases ended unheard: their holders get one lease's time to be heard.
-- Called by all that keeps leases alive or takes them back. True while nothing may be taken back.
local function spared_now()
  local f = redis.call('HMGET', FLEET, 'seen', 'spared_until')
  local until_ms = tonumber(f[2] or 0)
  if f[1] and NOW - tonumber(f[1]) > SILENCE then
    until_ms = NOW + LEASE
    redis.call('HSET', FLEET, 'spared_until', exact(until_ms))
  end
  redis.call('HSET', FLEET, 'seen', exact(NOW))
  return NOW < until_ms
end
