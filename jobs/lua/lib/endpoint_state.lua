-- requires: base, receiver_queue
-- reads read_listeners: listeners, tenant
--
-- Endpoints are enabled and disabled.

-- Adds this endpoint to the tenant's listeners to single jobs, or removes it. A job emits its event only if there is a
-- listener.
local function listen(queue, wanted)
  local q = read_listeners(queue)
  redis.call(wanted and 'SADD' or 'SREM', q.listeners, queue)
  redis.call('HSET', q.tenant, 'listening', redis.call('SCARD', q.listeners) > 0 and '1' or '0')
end

-- Sends nothing more to an endpoint. The plan exhausts its waiting deliveries, some at a time.
local function disable(queue, reason)
  redis.call('HSET', queue, 'enabled', '0', 'disabled_why', reason, 'disabled_at', AT)
  redis.call('ZREM', redis.call('HGET', queue, 'breakers'), queue)
  listen(queue, false)
  wake(queue, NOW)
end
