-- requires: base, common_keys, members, scores, records, recovery_grace, lanes, lane_hold, counters, batch_state,
--   job_state, job_end, job_fail, billing, window, attempt_log
-- reads read_lost_job: lane, state, attempt, claimed, worker
-- reads read_late_job: state, lane
-- reads read_due_job: state, lane, attempt
-- reads read_next_job: state, attempt
-- reads read_model: ring, concurrency, limit, in_flight, rpm, pace, tat, parked, park_until, probe, minute, starts,
--   starts_before, totals, samples, sampled, rests_until
-- reads read_budget: budget, cost, unknown, reserved
-- reads read_tenant: max_in_flight, in_flight, stalled
-- reads read_share: lanes, tenant, weight
--
-- Starts what may start now: moves due jobs to their lanes, takes back expired leases, and, while a model's window has
-- room and its pace has a token, leases the next job of the lane that is furthest behind its share.
-- Any number of callers may run this at once: there is no leader.
--
-- KEYS[6] workers ZSET   KEYS[7…] one model record a model
-- ARGV[4] jobs to start in this call at most   ARGV[5] burst tolerance of the pace, ms
-- Returns {ms until there may be more to do (-1: nothing is known to become due), job key, attempt, job key, …}.

local workers, max_starts, burst = KEYS[6], tonumber(ARGV[4]), tonumber(ARGV[5])
local FIRST_MODEL = 7
local MAX_HOUSEKEEPING, MAX_LOST, MAX_STALE = 200, 3, 1000

for _, name in ipairs(redis.call('ZRANGEBYSCORE', workers, '-inf', AT)) do
  local field = 'slots:' .. name
  redis.call('HINCRBY', FLEET, 'slots', -tonumber(redis.call('HGET', FLEET, field) or 0))
  redis.call('HDEL', FLEET, field)
  redis.call('ZREM', workers, name)
end

-- Logs and counts that a job's worker was lost. Returns true where the job failed because of it.
local function lose_worker(job, r, totals)
  local lost = redis.call('HINCRBY', job, 'lost', 1)
  redis.call('HDEL', job, 'claimed', 'worker', 'holder')
  redis.call('HINCRBY', totals, 'outcome:lease_lost', 1)
  log_attempt(job, cjson.encode({number = tonumber(r.attempt), started_ms = tonumber(r.claimed), finished_ms = NOW,
    outcome = 'lease_lost', message = 'the worker ' .. (r.worker or '') .. ' was lost'}))
  if lost < MAX_LOST then return false end
  fail(job, r.lane, 'running', 'worker_lost',
    'lost its worker ' .. lost .. ' times: this picture may be more than a worker can hold', false)
  return true
end

local function take_back(member)
  local job, attempt = parts_of(member)
  local r = read_lost_job(job)
  local had_lease = redis.call('ZREM', LEASES, member) == 1
  if not r.lane then return end
  local record = lane_record(r.lane)
  forget_probe(record.model, member)
  if had_lease then
    leave_window(job, attempt, r.lane)
    redis.call('HINCRBY', record.totals, r.claimed and 'lost:worker' or 'lost:nobody', 1)
    if r.claimed then suspect(job, attempt, r.lane) end
  end
  if r.state ~= 'running' or r.attempt ~= attempt or cancel_with_batch(job, r.lane, 'running') then return end
  if r.claimed and lose_worker(job, r, record.totals) then return end
  move(job, r.lane, 'running', 'queued')
  enqueue(job, r.lane, true)
end

local expired = in_recovery_grace() and {}
  or redis.call('ZRANGEBYSCORE', LEASES, '-inf', AT, 'LIMIT', 0, MAX_HOUSEKEEPING)
for _, member in ipairs(expired) do take_back(member) end

local late = redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', AT, 'LIMIT', 0, MAX_HOUSEKEEPING)
for _, job in ipairs(late) do
  local r = read_late_job(job)
  redis.call('ZREM', DEADLINES, job)
  if (r.state == 'queued' or r.state == 'waiting') and not cancel_with_batch(job, r.lane, r.state) then
    redis.call('ZREM', WAITING, job)
    fail(job, r.lane, r.state, 'deadline_exceeded', 'its deadline passed before it could be edited', true)
  end
end

local due = redis.call('ZRANGEBYSCORE', WAITING, '-inf', AT, 'LIMIT', 0, MAX_HOUSEKEEPING)
for _, job in ipairs(due) do
  redis.call('ZREM', WAITING, job)
  local r = read_due_job(job)
  if r.state == 'waiting' and not cancel_with_batch(job, r.lane, 'waiting') then
    move(job, r.lane, 'waiting', 'queued')
    -- A job that was tried before goes to the front, so that the oldest jobs end first.
    enqueue(job, r.lane, r.attempt and true or false)
  end
end

-- The models as this call sees them; changes are written once, at the end.
local slots_left = tonumber(redis.call('HGET', FLEET, 'slots') or 0) - redis.call('ZCARD', LEASES)
local models = {}
for i = FIRST_MODEL, #KEYS do
  local m = read_model(KEYS[i])
  if m.ring then
    local rpm, pace = tonumber(m.rpm), tonumber(m.pace)
    if pace and (rpm == 0 or pace < rpm) then rpm = pace end
    models[#models + 1] = {
      key = KEYS[i], ring = m.ring, in_flight = tonumber(m.in_flight or 0), next_start_at = tonumber(m.tat or 0),
      started = 0, window = math.floor(math.min(tonumber(m.concurrency), tonumber(m.limit))),
      every = rpm > 0 and (60000 + burst) / rpm or 0,
      parked = m.parked, park_until = tonumber(m.park_until or 0), probe = m.probe,
      minute = tonumber(m.minute or 0), starts = tonumber(m.starts or 0), before = tonumber(m.starts_before or 0),
      totals = m.totals, samples = m.samples, sampled = tonumber(m.sampled or 0),
      rests_until = tonumber(m.rests_until or 0),
    }
  end
end

-- The totals are sampled every ten seconds, and samples are kept for an hour: rates are differences.
local SAMPLE_EVERY, SAMPLES_KEPT = 10000, 3600000
local function sample(m)
  if NOW - m.sampled < SAMPLE_EVERY then return end
  redis.call('HSET', m.key, 'sampled', AT)
  redis.call('LPUSH', m.samples, AT .. ' ' .. cjson.encode(fields_of(m.totals)))
  -- The loop ends at the sample that was written just now.
  while NOW - tonumber(string.match(redis.call('LINDEX', m.samples, -1), '^%d+')) > SAMPLES_KEPT do
    redis.call('RPOP', m.samples)
  end
end
for _, m in ipairs(models) do sample(m) end

-- Ms until the model may start one more job: 0 means now, nil that the passing of time alone does not allow it.
local function wait_of(m)
  if m.empty then return nil end
  if m.parked then
    if m.probe or m.started > 0 then return nil end
    if m.parked == 'operator' then return nil end
    if NOW < m.park_until then return m.park_until - NOW end
    return slots_left > 0 and 0 or nil
  end
  if m.in_flight >= m.window or slots_left <= 0 then return nil end
  local paced = m.every == 0 and m.next_start_at or m.next_start_at - burst
  return math.max(0, paced - NOW, m.rests_until - NOW)
end

local shares, tenants, budgets, stale = {}, {}, {}, 0

-- Whether a batch can pay for one more edit besides all that are under way. An edit that continues from a recorded
-- answer is paid already.
local function affords(lane, job, attempt)
  if lane.batch == '' then return true end
  local budget = budgets[lane.batch]
  if not budget then
    local b = read_budget(lane.batch)
    budget = {limit = tonumber(b.budget), used = tonumber(b.cost or 0) + tonumber(b.unknown or 0)
      + tonumber(b.reserved or 0)}
    budgets[lane.batch] = budget
  end
  if not budget.limit or redis.call('HEXISTS', job, 'checkpoint') == 1 then return true end
  local price = tonumber(lane.price or 0)
  if budget.used + price > budget.limit then return false end
  budget.used = budget.used + price
  redis.call('HINCRBY', lane.batch, 'reserved', price)
  redis.call('HSET', job, 'reserved:' .. attempt, price)
  return true
end

local function stop_for_budget(batch)
  hold_batch(batch)
  redis.call('HSET', batch, 'state', 'paused', 'reason', 'budget')
  emit_batch('paused', batch)
end

local function tenant_of(key)
  local tenant = tenants[key]
  if not tenant then
    local t = read_tenant(key)
    tenant = {limit = tonumber(t.max_in_flight), in_flight = tonumber(t.in_flight or 0), stalled = t.stalled}
    tenants[key] = tenant
  end
  return tenant
end

local function share_of(key)
  local share = shares[key]
  if not share then
    share = read_share(key)
    share.weight = tonumber(share.weight)
    shares[key] = share
  end
  return share
end

local function leave_ring(m, share, tag)
  redis.call('ZREM', m.ring, share)
  redis.call('HSET', share, 'tag', exact(tag))
  redis.call('HSET', m.key, 'v', exact(tag))
end

local function leave_share(share_key, lanes, lane, tag)
  redis.call('ZREM', lanes, lane)
  redis.call('HSET', lane, 'tag', exact(tag))
  redis.call('HSET', share_key, 'v', exact(tag))
end

-- Takes the first job of a lane: its key and the number of its next attempt, or nil where the job on the list is no
-- longer queued or cannot be paid.
local function take_job(lane)
  local job = redis.call('LPOP', lane.list)
  if not job then return nil, nil, true end
  local r = read_next_job(job)
  local attempt = tonumber(r.attempt or 0) + 1
  if r.state ~= 'queued' then
    stale = stale + 1
    return nil
  end
  if not affords(lane, job, attempt) then
    redis.call('LPUSH', lane.list, job)
    stop_for_budget(lane.batch)
    return nil
  end
  return job, attempt
end

-- Takes the next job of the lane that is furthest behind: its key, lane, share and attempt; nil where nothing is queued
-- (or too many entries were stale).
local function take(m)
  while stale < MAX_STALE do
    local top = redis.call('ZRANGE', m.ring, 0, 0, 'WITHSCORES')
    local share_key, share_tag = top[1], tonumber(top[2])
    if not share_key then return nil end
    local share = share_of(share_key)
    local owner = tenant_of(share.tenant)
    local first = redis.call('ZRANGE', share.lanes, 0, 0, 'WITHSCORES')
    local lane, lane_tag = first[1], tonumber(first[2])
    if not lane then
      leave_ring(m, share_key, share_tag)
    elseif owner.limit and owner.in_flight >= owner.limit then
      leave_ring(m, share_key, share_tag)
      redis.call('HSET', share_key, 'stalled', '1')
      redis.call('SADD', owner.stalled, share_key)
    else
      local record = lane_record(lane)
      local job, attempt, empty = take_job(record)
      if empty then
        leave_share(share_key, share.lanes, lane, lane_tag)
      elseif job then
        redis.call('ZADD', share.lanes, exact(lane_tag + 1 / record.weight), lane)
        redis.call('ZADD', m.ring, exact(share_tag + 1 / share.weight), share_key)
        return job, lane, share, attempt
      end
    end
  end
  return nil
end

local answer, leases = {-1}, {}
begin_counters()
while #answer <= max_starts * 2 do
  local chosen
  for _, m in ipairs(models) do
    if wait_of(m) == 0 and (not chosen or m.in_flight < chosen.in_flight) then chosen = m end
  end
  if not chosen then break end
  local job, lane, share, attempt = take(chosen)
  if not job then
    chosen.empty = true
  else
    local member = member_of(job, attempt)
    move(job, lane, 'queued', 'running', false, {'attempt', attempt})
    leases[#leases + 1] = exact(NOW + LEASE)
    leases[#leases + 1] = member
    add(share.tenant, 'in_flight', 1)
    tenants[share.tenant].in_flight = tenants[share.tenant].in_flight + 1
    chosen.in_flight = chosen.in_flight + 1
    chosen.started = chosen.started + 1
    slots_left = slots_left - 1
    if chosen.every > 0 then chosen.next_start_at = math.max(chosen.next_start_at, NOW) + chosen.every end
    if chosen.parked then redis.call('HSET', chosen.key, 'probe', member) end
    answer[#answer + 1] = job
    answer[#answer + 1] = tostring(attempt)
  end
end

if #leases > 0 then redis.call('ZADD', LEASES, unpack(leases)) end
flush_counters()

local minute, soonest = math.floor(NOW / 60000), nil
local function sooner(ms) if ms and (not soonest or ms < soonest) then soonest = ms end end
for _, m in ipairs(models) do
  if m.started > 0 then
    if m.minute ~= minute then
      m.before = m.minute == minute - 1 and m.starts or 0
      m.starts = 0
    end
    redis.call('HINCRBY', m.key, 'in_flight', m.started)
    redis.call('HINCRBY', m.totals, 'started', m.started)
    redis.call('HSET', m.key, 'tat', exact(m.next_start_at), 'minute', exact(minute),
      'starts', exact(m.starts + m.started), 'starts_before', exact(m.before))
  end
  if not m.empty and redis.call('ZCARD', m.ring) > 0 then sooner(wait_of(m)) end
end
local next_due = first_score(WAITING)
if next_due then sooner(math.max(0, next_due - NOW)) end
if #expired == MAX_HOUSEKEEPING or #due == MAX_HOUSEKEEPING or stale >= MAX_STALE then sooner(0) end
answer[1] = soonest and math.ceil(soonest) or -1
return answer
