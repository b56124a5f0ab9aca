-- What may start now, starts: due jobs go to their lanes, expired leases are taken back, and while a model has room
-- in its window and a token of its pace, the next job of the lane furthest behind its share gets a lease.
-- Any number of callers may run this at once: there is no leader.
--
-- KEYS[6] workers ZSET   KEYS[7…] one model record a model
-- ARGV[4] most jobs to start in this call   ARGV[5] burst tolerance of the pace, ms
-- Returns {ms until there may be more to do (-1: not by the clock alone), job key, attempt, job key, attempt, …}.

local MOST_HOUSEKEEPING = 200
local workers, most, burst = KEYS[6], tonumber(ARGV[4]), tonumber(ARGV[5])

for _, name in ipairs(redis.call('ZRANGEBYSCORE', workers, '-inf', AT)) do
  local field = 'slots:' .. name
  redis.call('HINCRBY', FLEET, 'slots', -tonumber(redis.call('HGET', FLEET, field) or 0))
  redis.call('HDEL', FLEET, field)
  redis.call('ZREM', workers, name)
end

local function take_back(member)
  local job, attempt = parts_of(member)
  local r = redis.call('HMGET', job, 'lane', 'state', 'attempt', 'claimed', 'worker')
  local lane = r[1]
  if not lane then
    redis.call('ZREM', LEASES, member)
    return
  end
  local l = redis.call('HMGET', lane, 'model', 'totals')
  forget_probe(l[1], member)
  local leased = redis.call('ZREM', LEASES, member) == 1
  if leased then leave_window(job, attempt, lane) end
  if leased then redis.call('HINCRBY', l[2], r[4] and 'lost:worker' or 'lost:nobody', 1) end
  if leased and r[4] then suspect(job, attempt, lane) end
  if r[2] ~= 'running' or r[3] ~= attempt or turned(job, lane, 'running') then return end
  if r[4] then
    local lost = redis.call('HINCRBY', job, 'lost', 1)
    redis.call('HDEL', job, 'claimed', 'worker', 'holder')
    redis.call('HINCRBY', l[2], 'outcome:lease_lost', 1)
    log_attempt(job, cjson.encode({number = tonumber(attempt), started_ms = tonumber(r[4]), finished_ms = NOW,
      outcome = 'lease_lost', message = 'the worker ' .. (r[5] or '') .. ' was lost'}))
    if lost >= MOST_LOST then
      fail(job, lane, 'running', 'worker_lost',
        'lost its worker ' .. lost .. ' times: this picture may be more than a worker can hold', false)
      return
    end
  end
  move(job, lane, 'running', 'queued')
  enqueue(job, lane, true)
end

local spared = spared_now()
local expired = spared and {} or redis.call('ZRANGEBYSCORE', LEASES, '-inf', AT, 'LIMIT', 0, MOST_HOUSEKEEPING)
for _, member in ipairs(expired) do take_back(member) end

local over = redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', AT, 'LIMIT', 0, MOST_HOUSEKEEPING)
for _, job in ipairs(over) do
  local r = redis.call('HMGET', job, 'state', 'lane')
  redis.call('ZREM', DEADLINES, job)
  if (r[1] == 'queued' or r[1] == 'waiting') and not turned(job, r[2], r[1]) then
    redis.call('ZREM', WAITING, job)
    fail(job, r[2], r[1], 'deadline_exceeded', 'its deadline passed before it could be edited', true)
  end
end

local due = redis.call('ZRANGEBYSCORE', WAITING, '-inf', AT, 'LIMIT', 0, MOST_HOUSEKEEPING)
for _, job in ipairs(due) do
  redis.call('ZREM', WAITING, job)
  local r = redis.call('HMGET', job, 'state', 'lane', 'attempt')
  if r[1] == 'waiting' and not turned(job, r[2], 'waiting') then
    move(job, r[2], 'waiting', 'queued')
    -- One that was tried before goes ahead of those that were not, so that the oldest end first.
    enqueue(job, r[2], r[3] and true or false)
  end
end

-- A model as this call sees it; what changes is written back once, at the end.
local slots_left = tonumber(redis.call('HGET', FLEET, 'slots') or 0) - redis.call('ZCARD', LEASES)
local models = {}
for i = 7, #KEYS do
  local m = redis.call('HMGET', KEYS[i], 'ring', 'concurrency', 'limit', 'in_flight', 'rpm', 'pace', 'tat', 'parked',
    'park_until', 'probe', 'minute', 'starts', 'starts_before', 'totals', 'samples', 'sampled', 'rests_until')
  if m[1] then
    local rpm = tonumber(m[5])
    local pace = tonumber(m[6])
    if pace and (rpm == 0 or pace < rpm) then rpm = pace end
    models[#models + 1] = {
      key = KEYS[i], ring = m[1], in_flight = tonumber(m[4] or 0), tat = tonumber(m[7] or 0), started = 0,
      window = math.floor(math.min(tonumber(m[2]), tonumber(m[3]))),
      every = rpm > 0 and (60000 + burst) / rpm or 0,
      parked = m[8], park_until = tonumber(m[9] or 0), probe = m[10],
      minute = tonumber(m[11] or 0), starts = tonumber(m[12] or 0), before = tonumber(m[13] or 0),
      totals = m[14], samples = m[15], sampled = tonumber(m[16] or 0),
      rests_until = tonumber(m[17] or 0),
    }
  end
end

-- What was counted so far is kept every ten seconds, for an hour: rates are differences.
local SAMPLE_EVERY, SAMPLES_LIVE = 10000, 3600000
local function sample(m)
  if NOW - m.sampled < SAMPLE_EVERY then return end
  redis.call('HSET', m.key, 'sampled', AT)
  redis.call('LPUSH', m.samples, AT .. ' ' .. cjson.encode(fields_of(m.totals)))
  -- The one that was written now ends it.
  while NOW - tonumber(string.match(redis.call('LINDEX', m.samples, -1), '^%d+')) > SAMPLES_LIVE do
    redis.call('RPOP', m.samples)
  end
end
for _, m in ipairs(models) do sample(m) end

-- Ms until the model may start one more job: 0 now, nil not by the clock alone.
local function wait_of(m)
  if m.empty then return nil end
  if m.parked then
    if m.probe or m.started > 0 then return nil end
    if m.parked == 'operator' then return nil end
    if NOW < m.park_until then return m.park_until - NOW end
    return slots_left > 0 and 0 or nil
  end
  if m.in_flight >= m.window or slots_left <= 0 then return nil end
  local paced = m.every == 0 and m.tat or m.tat - burst
  return math.max(0, paced - NOW, m.rests_until - NOW)
end

local shares, tenants, budgets, stale = {}, {}, {}, 0

-- Whether a batch can pay for one more edit besides all that are under way. One that goes on from a recorded answer is
-- paid for.
local function affords(card, job, attempt)
  if card.batch == '' then return true end
  local b = budgets[card.batch]
  if not b then
    local f = redis.call('HMGET', card.batch, 'budget', 'cost', 'unknown', 'reserved')
    b = {most = tonumber(f[1]), used = tonumber(f[2] or 0) + tonumber(f[3] or 0) + tonumber(f[4] or 0)}
    budgets[card.batch] = b
  end
  if not b.most or redis.call('HEXISTS', job, 'checkpoint') == 1 then return true end
  local price = tonumber(card.price or 0)
  if b.used + price > b.most then return false end
  b.used = b.used + price
  redis.call('HINCRBY', card.batch, 'reserved', price)
  redis.call('HSET', job, 'reserved:' .. attempt, price)
  return true
end

local function stop_for_budget(batch)
  hold_batch(batch)
  redis.call('HSET', batch, 'state', 'paused', 'reason', 'budget')
  emit_batch('paused', batch)
end

local function tenant_of(key)
  local t = tenants[key]
  if not t then
    local f = redis.call('HMGET', key, 'max_in_flight', 'in_flight', 'stalled')
    t = {most = tonumber(f[1]), in_flight = tonumber(f[2] or 0), stalled = f[3]}
    tenants[key] = t
  end
  return t
end

local function leave_ring(m, share, tag)
  redis.call('ZREM', m.ring, share)
  redis.call('HSET', share, 'tag', exact(tag))
  redis.call('HSET', m.key, 'v', exact(tag))
end

-- The next job of the lane that is furthest behind, or nil where nothing is queued (or too much stale was walked past).
local function take(m)
  while stale < 1000 do
    local top = redis.call('ZRANGE', m.ring, 0, 0, 'WITHSCORES')
    local share = top[1]
    if not share then return nil end
    local share_tag = tonumber(top[2])
    local s = shares[share]
    if not s then
      local f = redis.call('HMGET', share, 'lanes', 'tenant', 'weight')
      s = {lanes = f[1], tenant = f[2], weight = tonumber(f[3])}
      shares[share] = s
    end
    local owner = tenant_of(s.tenant)
    local first = redis.call('ZRANGE', s.lanes, 0, 0, 'WITHSCORES')
    local lane = first[1]
    if not lane then
      leave_ring(m, share, share_tag)
    elseif owner.most and owner.in_flight >= owner.most then
      leave_ring(m, share, share_tag)
      redis.call('HSET', share, 'stalled', '1')
      redis.call('SADD', owner.stalled, share)
    else
      local lane_tag = tonumber(first[2])
      local c = card_of(lane)
      local job = redis.call('LPOP', c.list)
      if not job then
        redis.call('ZREM', s.lanes, lane)
        redis.call('HSET', lane, 'tag', exact(lane_tag))
        redis.call('HSET', share, 'v', exact(lane_tag))
      else
        local r = redis.call('HMGET', job, 'state', 'attempt')
        local attempt = tonumber(r[2] or 0) + 1
        if r[1] == 'queued' and not affords(c, job, attempt) then
          redis.call('LPUSH', c.list, job)
          stop_for_budget(c.batch)
        elseif r[1] == 'queued' then
          redis.call('ZADD', s.lanes, exact(lane_tag + 1 / c.weight), lane)
          redis.call('ZADD', m.ring, exact(share_tag + 1 / s.weight), share)
          return job, lane, s, attempt
        else
          stale = stale + 1
        end
      end
    end
  end
  return nil
end

local answer, leases = {-1}, {}
gather()
while #answer <= most * 2 do
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
    if chosen.every > 0 then chosen.tat = math.max(chosen.tat, NOW) + chosen.every end
    if chosen.parked then redis.call('HSET', chosen.key, 'probe', member) end
    answer[#answer + 1] = job
    answer[#answer + 1] = tostring(attempt)
  end
end

if #leases > 0 then redis.call('ZADD', LEASES, unpack(leases)) end
book()

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
    redis.call('HSET', m.key, 'tat', exact(m.tat), 'minute', exact(minute), 'starts', exact(m.starts + m.started),
      'starts_before', exact(m.before))
  end
  if not m.empty and redis.call('ZCARD', m.ring) > 0 then sooner(wait_of(m)) end
end
local next_due = first_score(WAITING)
if next_due then sooner(math.max(0, next_due - NOW)) end
if #expired == MOST_HOUSEKEEPING or #due == MOST_HOUSEKEEPING or stale >= 1000 then sooner(0) end
answer[1] = soonest and math.ceil(soonest) or -1
return answer
