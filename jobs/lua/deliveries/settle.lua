-- requires: base, delivery_keys, receiver_limits, receiver_kind, endpoint_state, delivery_state, delivery_lease,
--   try_log
-- reads read_delivery: state, number, line
-- reads read_receiver: took, window, open_until, failing_since, endpoint, enabled, owner, breakers, totals, rests_until
--
-- Ends a try: its lease, the feedback about the receiver, and the delivery if this is still its current try.
--
-- KEYS[10] delivery
-- ARGV[5] number of the try
-- ARGV[6] JSON: {ok: whether it was a success, log: the entry for the log of tries, took_ms,
--   delay_ms: until the next try, absent where there is none, rest_ms: how long the receiver asked to be left alone,
--   why: the reason why it is exhausted, gone: whether the receiver answered 410,
--   revision: of the endpoint whose url was used}
-- Returns the delivery's state; '' where the fence refused it.

local delivery, number, command = KEYS[10], ARGV[5], cjson.decode(ARGV[6])
local r = read_delivery(delivery)
if not r.state then return '' end
local queue = r.line
-- After a change of url, or after it was enabled again, the endpoint is another receiver: this try gives no feedback.
local current = (redis.call('HGET', queue, 'revision') or '0') == command.revision

-- While the breaker is open, a receiver may use about a tenth of one thread's time. Failures that come at once hold no
-- thread, so they cause no pause.
local PAUSE_FACTOR, FREE_MS = 10, 100
-- A receiver whose answers take longer on average is slow; so is one that fails after so long.
local QUICK_MS = 1000
-- An endpoint with nothing but failures for so long is disabled.
local PATIENCE = 5 * 86400000

-- Nothing is sent to a receiver until `open_until`. A success removes the pause of the breaker, but not the one that
-- the receiver asked for (`rests_until`): this try may have begun before.
local function on_success(q)
  local took = q.took and tonumber(q.took) * 0.7 + command.took_ms * 0.3 or command.took_ms
  redis.call('HDEL', queue, 'open_until', 'failing_since')
  if q.rests_until > NOW then redis.call('HSET', queue, 'open_until', exact(q.rests_until)) end
  redis.call('ZREM', q.breakers, queue)
  redis.call('HSET', queue, 'fails', 0, 'took', exact(took), 'window', exact(math.min(MAX_WINDOW, q.window + 1)),
    'succeeded_at', AT)
  set_kind(queue, took < QUICK_MS and 'quick' or 'slow')
end

local function disable_receiver(q, reason)
  disable(queue, reason)
  redis.call('HINCRBY', q.totals, 'disabled', 1)
  redis.call('XADD', OUTBOX, '*', 'type', 'endpoint.disabled', 'tenant', q.owner, 'subject', queue, 'at', AT,
    'data', cjson.encode({why = reason}))
end

local function on_failure(q)
  local fails = redis.call('HINCRBY', queue, 'fails', 1)
  redis.call('HSETNX', queue, 'failing_since', AT)
  redis.call('HSET', queue, 'window', exact(math.max(1, math.floor(q.window / 2))))
  local rest = command.rest_ms or 0
  if rest > 0 then redis.call('HSET', queue, 'rests_until', exact(math.max(q.rests_until, NOW + rest))) end
  if fails >= BREAKS_AT or command.took_ms >= QUICK_MS then set_kind(queue, 'slow') end
  if fails >= BREAKS_AT then
    rest = math.max(rest, (command.took_ms - FREE_MS) * PAUSE_FACTOR)
    redis.call('ZADD', q.breakers, AT, queue)
    redis.call('ZREMRANGEBYSCORE', q.breakers, '-inf', exact(NOW - PATIENCE))
  end
  if rest > 0 then redis.call('HSET', queue, 'open_until', exact(math.max(q.open_until, NOW + rest))) end
  if not q.endpoint or q.enabled ~= '1' then return end
  if command.gone then
    disable_receiver(q, 'gone')
  elseif NOW - tonumber(q.failing_since or NOW) >= PATIENCE then
    disable_receiver(q, 'failing')
  end
end

if drop_lease(delivery, number, queue) then
  local q = read_receiver(queue)
  q.window, q.open_until = tonumber(q.window or FIRST_WINDOW), tonumber(q.open_until or 0)
  q.rests_until = tonumber(q.rests_until or 0)
  redis.call('HINCRBY', q.totals, command.ok and 'tries:succeeded' or 'tries:failed', 1)
  if current and command.ok then
    on_success(q)
  elseif current then
    on_failure(q)
  end
end

if r.number ~= number then return '' end
-- A try that succeeded has delivered the event even if its lease was lost.
if r.state ~= 'sending' and not (command.ok and r.state == 'waiting') then return '' end

redis.call('HDEL', delivery, 'claimed', 'holder')
log_try(delivery, command.log)
redis.call('HINCRBY', delivery, 'tries', 1)
if command.ok then
  move(delivery, queue, r.state, 'succeeded')
  return 'succeeded'
end
-- A refusal by the old url does not apply to the new url.
local delay = command.gone and not current and 0 or command.delay_ms
if delay then
  move(delivery, queue, 'sending', 'waiting', NOW + delay)
  return 'waiting'
end
exhaust(delivery, queue, 'sending', command.why)
return 'exhausted'
