-- An attempt ends: its lease, what the endpoint taught about its limits, and, if it still is the job's attempt, the
-- job.
--
-- KEYS[6] job   KEYS[7] where an equal edit will find it; not touched where `entry` is null
-- ARGV[4] attempt
-- ARGV[5] JSON: {
--   to: succeeded | filtered | failed | waiting | queued, outcome: as the attempt's line says,
--   drop: [field] to remove,
--   delay_ms: for waiting, cost: millionths of a dollar that it cost or may have cost,
--   count: whether the attempt uses up a try,
--   reused: whether the output is an equal edit's, suspect: whether a call under way is given up and may be billed,
--   entry: null | {field, name of the job, how long KEYS[7] lives in ms}: what equal edits may take,
--   signal: null | {kind: ok | rate | concurrency | trouble | park, limit, retry_after_ms, code, reason} }
-- ARGV[6] the attempt's line for the log   ARGV[7…] field, value, … to set
-- Returns 1, or 0 where the fence refused the job's part (the lease is given up all the same).

local job, attempt, order, line = KEYS[6], ARGV[4], cjson.decode(ARGV[5]), ARGV[6]
local r = redis.call('HMGET', job, 'state', 'attempt', 'lane', 'claimed', 'log', 'tries')
if not r[1] then return 0 end
local lane = r[3]
local model, totals, member = card_of(lane).model, card_of(lane).totals, member_of(job, attempt)

-- How long a park lasts before the next probe: doubled each time the probe fails.
local FIRST_PAUSE, LONGEST_PAUSE = 5000, 600000
-- So many failures in a row, with no success between, are the endpoint's fault.
local FAILURE_RUN = 12
-- Answers to calls that were under way when a limit was lowered say nothing new.
local RATE_SETTLES = 5000

local function park(signal, m)
  local pause = tonumber(m.park_pause or 0)
  pause = pause == 0 and FIRST_PAUSE or math.min(pause * 2, LONGEST_PAUSE)
  if signal.retry_after_ms and signal.retry_after_ms > pause then pause = signal.retry_after_ms end
  redis.call('HSET', model, 'parked', signal.code, 'park_reason', signal.reason, 'park_until', exact(NOW + pause),
    'park_pause', exact(pause))
  if not m.parked then
    redis.call('HSET', model, 'parked_at', AT)
    redis.call('HINCRBY', totals, 'parks', 1)
    emit('model.parked', '', model, cjson.encode({code = signal.code, reason = signal.reason}))
  end
end

-- Both return the model's probe, as it was.
local function succeed()
  local v = redis.call('HMGET', model, 'fails', 'parked', 'probe', 'limit', 'concurrency', 'in_flight', 'pressed',
    'pace')
  local m = {
    fails = v[1], parked = v[2], probe = v[3], limit = v[4], concurrency = v[5], in_flight = v[6], pressed = v[7],
    pace = v[8],
  }
  if m.fails and m.fails ~= '0' then redis.call('HSET', model, 'fails', 0) end
  -- Calls that were under way when it was parked say nothing of now.
  if m.parked and m.parked ~= 'operator' and m.probe == member then
    local reason = redis.call('HGET', model, 'park_reason')
    redis.call('HDEL', model, 'parked', 'park_reason', 'park_until', 'park_pause', 'parked_at')
    emit('model.resumed', '', model, cjson.encode({code = m.parked, reason = reason}))
  end
  local limit, in_flight = tonumber(m.limit), tonumber(m.in_flight)
  if limit < tonumber(m.concurrency) and in_flight >= math.floor(limit) then
    local step = m.pressed and 1 / limit or 1
    redis.call('HSET', model, 'limit', exact(math.min(tonumber(m.concurrency), limit + step)))
  end
  local p = m.pace and redis.call('HMGET', model, 'pace_at', 'pace_hold', 'rpm')
  if p and NOW - tonumber(p[1]) > tonumber(p[2]) then
    local ceiling = tonumber(p[3]) > 0 and tonumber(p[3]) or math.huge
    local pace = tonumber(m.pace) * 1.02
    if pace >= ceiling then
      redis.call('HDEL', model, 'pace', 'pace_at', 'pace_hold')
    else
      redis.call('HSET', model, 'pace', exact(pace), 'pace_at', AT)
    end
  end
  return m.probe
end

local function press_concurrency(m, signal)
  if m.pressed and tonumber(r[4] or NOW) <= tonumber(m.pressed) then return end
  local limit = math.max(1, math.min(tonumber(m.limit), tonumber(m.in_flight)) * 2 / 3)
  if signal.limit and signal.limit >= 1 then limit = math.min(tonumber(m.limit), signal.limit) end
  redis.call('HSET', model, 'limit', exact(limit), 'pressed', AT)
end

-- The starts of the last minute, from the plan's count of this minute and the one before.
local function recent_starts(m)
  local minute = math.floor(NOW / 60000)
  local counted, now, before = tonumber(m.minute or 0), tonumber(m.starts or 0), tonumber(m.starts_before or 0)
  if counted == minute then return now + before * (1 - NOW % 60000 / 60000) end
  if counted == minute - 1 then return now * (1 - NOW % 60000 / 60000) end
  return 0
end

local function press_rate(m, signal)
  local rest = signal.retry_after_ms or 1000
  -- The burst that the pace allows does not shorten the rest.
  redis.call('HSET', model, 'tat', exact(math.max(tonumber(m.tat or 0), NOW + rest)),
    'rests_until', exact(math.max(tonumber(m.rests_until or 0), NOW + rest)))
  if m.pace_at and NOW - tonumber(m.pace_at) < RATE_SETTLES then return end
  local pace, hold
  if signal.limit and signal.limit >= 1 then
    pace, hold = signal.limit * 0.985, 600000
  else
    local known = tonumber(m.pace or m.rpm)
    local seen = math.max(1, recent_starts(m))
    pace, hold = math.max(1, (known > 0 and math.min(known, seen) or seen) * 0.9), 20000
  end
  redis.call('HSET', model, 'pace', exact(pace), 'pace_at', AT, 'pace_hold', hold)
end

local function suffer(signal)
  local v = redis.call('HMGET', model, 'fails', 'parked', 'park_pause', 'probe', 'limit', 'in_flight', 'pressed',
    'pace', 'pace_at', 'rpm', 'tat', 'minute', 'starts', 'starts_before', 'rests_until')
  local m = {
    fails = v[1], parked = v[2], park_pause = v[3], probe = v[4], limit = v[5], in_flight = v[6], pressed = v[7],
    pace = v[8], pace_at = v[9], rpm = v[10], tat = v[11], minute = v[12], starts = v[13], starts_before = v[14],
    rests_until = v[15],
  }
  if signal.kind == 'rate' then
    press_rate(m, signal)
  elseif signal.kind == 'concurrency' then
    press_concurrency(m, signal)
  elseif signal.kind == 'park' then
    -- Calls that were under way when the model was parked do not lengthen the park; the probe does.
    if not m.parked or m.probe == member then park(signal, m) end
  elseif signal.kind == 'trouble' then
    local fails = redis.call('HINCRBY', model, 'fails', 1)
    if m.probe == member or (not m.parked and fails >= FAILURE_RUN) then
      park({code = 'failing', retry_after_ms = signal.retry_after_ms,
        reason = fails .. ' calls in a row failed, the last one so: ' .. signal.reason}, m)
    end
  end
  return m.probe
end

-- True if the attempt was the probe, which has had its answer.
local function learn(signal)
  if signal == cjson.null then return forget_probe(model, member) end
  local probe
  if signal.kind == 'ok' then probe = succeed() else probe = suffer(signal) end
  if probe ~= member then return false end
  redis.call('HDEL', model, 'probe')
  return true
end

local held, was_probe = redis.call('ZREM', LEASES, member) == 1, false
if held then
  was_probe = learn(order.signal)
  leave_window(job, attempt, lane)
  if order.suspect then suspect(job, attempt, lane) end
end
charge(job, attempt, lane, order.cost)
-- What a canceled job's call came to still belongs into its log.
if r[1] == 'canceled' and r[2] == attempt and held then log_attempt(job, line) end

-- Whether this very end was written before: the answer was lost, and the call came again.
local function is_repeated()
  local last = r[1] == order.to and r[5] and string.match(r[5], '([^\n]*)\n$')
  return last and string.find(last, '"number":' .. attempt .. ',', 1, true)
    and string.find(last, '"outcome":"' .. order.outcome .. '"', 1, true)
end

if r[1] ~= 'running' or r[2] ~= attempt or turned(job, lane, 'running') then
  if is_repeated() then return 1 end
  redis.call('HINCRBY', totals, 'refused', 1)
  return 0
end

-- The end is told by the one clock of the fleet, and the same in the log as in events.
local written = {'log', with_line(r[5], (string.gsub(line, '"finished_ms":%d+', '"finished_ms":' .. AT, 1)))}
for i = 7, #ARGV do written[#written + 1] = ARGV[i] end
local drop = {'claimed', 'worker', 'holder', unpack(order.drop)}
if order.to == 'succeeded' then
  -- Nothing is tried any more after a success, and its log has the moments.
  for _, field in ipairs({'tries', 'attempt', 'started'}) do drop[#drop + 1] = field end
  -- An earlier attempt that was thought lost may still say what it cost.
  if attempt == '1' then drop[#drop + 1] = 'paid' end
elseif order.count then
  written[#written + 1] = 'tries'
  written[#written + 1] = (tonumber(r[6]) or 0) + 1
end
redis.call('HDEL', job, unpack(drop))

if order.to == 'waiting' then
  move(job, lane, 'running', 'waiting', false, written)
  local due = NOW + order.delay_ms
  -- The next probe is another job's, where there is one: it may be this one's picture that fails.
  if was_probe then due = math.max(due, tonumber(redis.call('HGET', model, 'park_until') or 0) + 1) end
  redis.call('ZADD', WAITING, exact(due), job)
elseif order.to == 'queued' then
  move(job, lane, 'running', 'queued', false, written)
  enqueue(job, lane, true)
else
  local batch = card_of(lane).batch
  if batch ~= '' then
    if r[4] then redis.call('HINCRBY', batch, 'busy_ms', NOW - tonumber(r[4])) end
    if order.reused then redis.call('HINCRBY', batch, 'reused', 1) end
  end
  if order.to == 'succeeded' and order.entry ~= cjson.null then
    redis.call('HSET', KEYS[7], order.entry[1], order.entry[2])
    redis.call('PEXPIRE', KEYS[7], order.entry[3])
  end
  finish(job, lane, 'running', order.to, false, written)
end
-- A success is counted as the end of its job.
if order.outcome ~= 'succeeded' then redis.call('HINCRBY', totals, 'outcome:' .. order.outcome, 1) end
if order.reused then redis.call('HINCRBY', totals, 'reused', 1) end
return 1
