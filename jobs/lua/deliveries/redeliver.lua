-- requires: base, receiver_queue, delivery_state
-- reads read_delivery: state, line
--
-- The user redelivers: ended deliveries start their retry schedule again, waiting ones are tried now.
--
-- KEYS[10…] deliveries
-- ARGV[5] JSON: the states to redeliver; others are left as they are
-- Returns {how many are to be tried, state of the first one before, '' where there is none,
--   '1' if the endpoint of the first one is enabled}.

local FIRST_DELIVERY = 10
local wanted = {}
for _, state in ipairs(cjson.decode(ARGV[5])) do wanted[state] = true end

local function redeliver(delivery, r)
  if r.state == 'waiting' then
    redis.call('HSET', delivery, 'next', AT)
    redis.call('ZADD', redis.call('HGET', r.line, 'due'), AT, delivery)
    wake(r.line, NOW)
  else
    redis.call('PERSIST', delivery)
    redis.call('HDEL', delivery, 'tries', 'finished', 'why')
    move(delivery, r.line, r.state, 'waiting', NOW)
  end
end

local count, first_state, first_enabled = 0, '', '0'
for i = FIRST_DELIVERY, #KEYS do
  local r = read_delivery(KEYS[i])
  local enabled = r.line and redis.call('HGET', r.line, 'enabled') or '0'
  if i == FIRST_DELIVERY and r.state then first_state, first_enabled = r.state, enabled end
  if r.state and wanted[r.state] and enabled == '1' then
    redeliver(KEYS[i], r)
    count = count + 1
  end
end
return {count, first_state, first_enabled}
