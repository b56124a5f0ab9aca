-- requires: base, members, scores, delivery_keys, receiver_limits, receiver_queue, delivery_state, delivery_lease,
--   try_log
-- reads read_lost_try: line, state, number, claimed
-- reads read_disabled: due, deleted
-- reads read_queue: due, enabled, disabled_why, in_flight, window, fails, open_until, rate, tat
--
-- Starts the deliveries that may start now. It takes back lost tries, puts receiver queues with a due delivery in line,
-- and starts one delivery a turn while threads are free. Tenants take turns, and so do the queues of each tenant, as far
-- as window, rate and breaker allow. Slow or failing receivers share a quarter of the threads; new receivers share
-- another quarter, one thread each. Quick receivers wait for neither.
-- Any number of callers may run this at once: there is no leader.
--
-- ARGV[5] deliveries to start in this call at most
-- Returns {ms until there may be more to do (-1: nothing is known to become due), delivery key, number, …}.

local MAX_HOUSEKEEPING = 200
local max_starts = tonumber(ARGV[5])

redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', AT)
local threads = 0
for _, worker in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
  local _, number = parts_of(worker)
  threads = threads + tonumber(number)
end

local function take_back(leases, member)
  local delivery, number = parts_of(member)
  local r = read_lost_try(delivery)
  if not r.line then
    redis.call('ZREM', leases, member)
    return
  end
  drop_lease(delivery, number, r.line)
  if r.state ~= 'sending' or r.number ~= number then return end
  redis.call('HINCRBY', redis.call('HGET', r.line, 'totals'), 'tries:lost', 1)
  if r.claimed then
    local try = {number = tonumber(number), at_ms = tonumber(r.claimed), error = 'the worker was lost'}
    log_try(delivery, cjson.encode(try))
  end
  redis.call('HDEL', delivery, 'claimed', 'holder')
  move(delivery, r.line, 'sending', 'waiting', NOW)
end

local lost = 0
for _, leases in pairs(LEASES) do
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', AT, 'LIMIT', 0, MAX_HOUSEKEEPING)) do
    lost = lost + 1
    take_back(leases, member)
  end
end

local due = redis.call('ZRANGEBYSCORE', QUEUES, '-inf', AT, 'LIMIT', 0, MAX_HOUSEKEEPING)
for _, queue in ipairs(due) do
  redis.call('ZREM', QUEUES, queue)
  take_turn(queue)
end

-- Exhausts deliveries that wait for an endpoint that is disabled or deleted.
local function clear(queue, reason)
  local q = read_disabled(queue)
  local waiting = redis.call('ZRANGE', q.due, 0, MAX_HOUSEKEEPING - 1)
  for _, delivery in ipairs(waiting) do exhaust(delivery, queue, 'waiting', reason) end
  if #waiting == MAX_HOUSEKEEPING then
    wake(queue, NOW)
  elseif q.deleted == '1' then
    redis.call('PEXPIRE', queue, QUEUE_KEPT)
  end
end

-- Starts the next delivery of a queue. Returns it and the number of its try. Returns nil if none may start; the queue is
-- then looked at again when its wait ends.
local function start(queue, kind)
  local q = read_queue(queue)
  if not q.due then return nil end
  if q.enabled ~= '1' then return clear(queue, 'its endpoint is disabled: ' .. (q.disabled_why or '')) end
  local in_flight, open_until = tonumber(q.in_flight or 0), tonumber(q.open_until or 0)
  local window = kind == 'new' and 1 or tonumber(q.window or FIRST_WINDOW)
  if in_flight >= math.min(window, math.max(1, math.floor(threads / 2))) then return nil end
  if tonumber(q.fails or 0) >= BREAKS_AT and in_flight > 0 then return nil end
  if NOW < open_until then return wake(queue, open_until) end
  local rate, next_start_at = tonumber(q.rate or 0), tonumber(q.tat or 0)
  if rate > 0 and NOW < next_start_at then return wake(queue, next_start_at) end
  local top = redis.call('ZRANGE', q.due, 0, 0, 'WITHSCORES')
  local delivery, due_at = top[1], tonumber(top[2])
  if not delivery then return nil end
  if due_at > NOW then return wake(queue, due_at) end
  if redis.call('EXISTS', delivery) == 0 then
    redis.call('ZREM', q.due, delivery)
    return wake(queue, NOW)
  end
  local number = redis.call('HINCRBY', delivery, 'number', 1)
  redis.call('HDEL', delivery, 'claimed', 'holder')
  move(delivery, queue, 'waiting', 'sending')
  redis.call('ZADD', LEASES[kind], exact(NOW + LEASE), member_of(delivery, number))
  redis.call('HINCRBY', queue, 'in_flight', 1)
  if rate > 0 then redis.call('HSET', queue, 'tat', exact(math.max(next_start_at, NOW) + 1000 / rate)) end
  take_turn(queue)
  return delivery, number
end

-- Deliveries to quick receivers wait in the broker's queue for the next free thread. Others start only where a thread
-- may be held for long.
local quarter = math.min(threads, math.max(1, math.floor(threads / 4)))
local room = {quick = threads * 2, new = quarter, slow = quarter}
local answer = {-1}
for _, kind in ipairs(KINDS) do
  room[kind] = room[kind] - redis.call('ZCARD', LEASES[kind])
  while room[kind] > 0 and #answer <= max_starts * 2 do
    local queue = redis.call('ZPOPMIN', TURNS[kind])[1]
    if not queue then break end
    redis.call('HDEL', queue, 'in_turn')
    local delivery, number = start(queue, kind)
    if delivery then
      room[kind] = room[kind] - 1
      answer[#answer + 1] = delivery
      answer[#answer + 1] = tostring(number)
    end
  end
end

local next_due = first_score(QUEUES)
if next_due then answer[1] = math.max(0, math.ceil(next_due - NOW)) end
if #answer > max_starts * 2 or lost >= MAX_HOUSEKEEPING then answer[1] = 0 end
return answer
