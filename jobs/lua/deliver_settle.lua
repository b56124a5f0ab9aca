-- A try ends: its lease, what it taught about the receiver, and, if it still is the delivery's try, the delivery.
--
-- KEYS[10] delivery
-- ARGV[5] number of the try
-- ARGV[6] JSON: {ok: whether it was a success, log: the try's line for the log, took_ms,
--   delay_ms: until the next try, absent where there is none, rest_ms: how long the receiver asked to be left alone,
--   why: it is exhausted, gone: the receiver wants nothing any more,
--   revision: of the endpoint, whose url was told}
-- Returns the delivery's state; '' where the fence refused it.

local delivery, number, order = KEYS[10], ARGV[5], cjson.decode(ARGV[6])
local r = redis.call('HMGET', delivery, 'state', 'number', 'line')
if not r[1] then return '' end
local line = r[3]
-- An endpoint whose url was changed, or that was enabled again, is another receiver: this try teaches nothing of it.
local current = (redis.call('HGET', line, 'revision') or '0') == order.revision

-- A line is left alone until `open_until`. A success ends what the breaker made of that, not what the receiver asked
-- for (`rests_until`): it may have begun before that was said.
local function succeed(l)
  local took = l.took and tonumber(l.took) * 0.7 + order.took_ms * 0.3 or order.took_ms
  redis.call('HDEL', line, 'open_until', 'failing_since')
  if l.rests_until > NOW then redis.call('HSET', line, 'open_until', exact(l.rests_until)) end
  redis.call('ZREM', l.breakers, line)
  redis.call('HSET', line, 'fails', 0, 'took', exact(took), 'window', exact(math.min(LARGEST_WINDOW, l.window + 1)),
    'succeeded_at', exact(NOW))
  become(line, took < QUICK_MS and 'quick' or 'slow')
end

local function fail(l)
  local fails = redis.call('HINCRBY', line, 'fails', 1)
  redis.call('HSETNX', line, 'failing_since', exact(NOW))
  redis.call('HSET', line, 'window', exact(math.max(1, math.floor(l.window / 2))))
  local rest = order.rest_ms or 0
  if rest > 0 then redis.call('HSET', line, 'rests_until', exact(math.max(l.rests_until, NOW + rest))) end
  if fails >= BREAKS_AT or order.took_ms >= QUICK_MS then become(line, 'slow') end
  if fails >= BREAKS_AT then
    rest = math.max(rest, (order.took_ms - FREE_MS) * PAUSE_FACTOR)
    redis.call('ZADD', l.breakers, exact(NOW), line)
    redis.call('ZREMRANGEBYSCORE', l.breakers, '-inf', exact(NOW - PATIENCE))
  end
  if rest > 0 then redis.call('HSET', line, 'open_until', exact(math.max(l.open_until, NOW + rest))) end
  local why
  if order.gone then
    why = 'gone'
  elseif NOW - tonumber(l.failing_since or NOW) >= PATIENCE then
    why = 'failing'
  end
  if why and l.endpoint and l.enabled == '1' then
    disable(line, why)
    redis.call('HINCRBY', l.totals, 'disabled', 1)
    redis.call('XADD', OUTBOX, '*', 'type', 'endpoint.disabled', 'tenant', l.owner, 'subject', line, 'at', exact(NOW),
      'data', cjson.encode({why = why}))
  end
end

if drop_lease(delivery, number, line) then
  local f = redis.call('HMGET', line, 'took', 'window', 'open_until', 'failing_since', 'endpoint', 'enabled', 'owner',
    'breakers', 'totals', 'rests_until')
  redis.call('HINCRBY', f[9], order.ok and 'tries:succeeded' or 'tries:failed', 1)
  local l = {took = f[1], window = tonumber(f[2] or FIRST_WINDOW), open_until = tonumber(f[3] or 0),
    failing_since = f[4], endpoint = f[5], enabled = f[6], owner = f[7], breakers = f[8], totals = f[9],
    rests_until = tonumber(f[10] or 0)}
  if current and order.ok then
    succeed(l)
  elseif current then
    fail(l)
  end
end

if r[2] ~= number then return '' end
-- A try whose lease was lost has told all the same if it did.
if r[1] ~= 'sending' and not (order.ok and r[1] == 'waiting') then return '' end

redis.call('HDEL', delivery, 'claimed', 'holder')
log_try(delivery, order.log)
redis.call('HINCRBY', delivery, 'tries', 1)
if order.ok then
  move(delivery, line, r[1], 'succeeded')
  return 'succeeded'
end
-- That its old url wants nothing any more is no word on the new one.
local delay = order.gone and not current and 0 or order.delay_ms
if delay then
  move(delivery, line, 'sending', 'waiting', NOW + delay)
  return 'waiting'
end
exhaust(delivery, line, 'sending', order.why)
return 'exhausted'
