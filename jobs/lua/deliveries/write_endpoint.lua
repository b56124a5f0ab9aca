-- requires: base, writes, receiver_queue, receiver_kind, endpoint_state
-- reads read_before: enabled, url, breakers
-- reads read_after: enabled, jobs, url
--
-- Creates, changes or deletes an endpoint, and with it whether its tenant's jobs emit events.
--
-- KEYS[10] endpoint (a receiver queue)   KEYS[11] SET of the tenant's endpoints
-- ARGV[5] create | change | delete   ARGV[6] endpoints of a tenant at most
-- ARGV[7] JSON: {set: {field: text}, drop: [field]}; `jobs` is '1' where its filters accept events of jobs
-- Returns 'ok', 'full' or 'missing'.

local queue, endpoints, action, max_endpoints = KEYS[10], KEYS[11], ARGV[5], tonumber(ARGV[6])
local command = cjson.decode(ARGV[7])

if action == 'create' then
  if redis.call('SCARD', endpoints) >= max_endpoints then return 'full' end
  redis.call('SADD', endpoints, queue)
elseif redis.call('SISMEMBER', endpoints, queue) == 0 then
  return 'missing'
end

local before = read_before(queue)
write_fields(queue, command.set)
for _, field in ipairs(command.drop) do redis.call('HDEL', queue, field) end

local after = read_after(queue)
-- What is known of a receiver, and the results of tries under way, do not apply to another address, nor to a receiver
-- that its owner has repaired.
if action == 'change' and (before.url ~= after.url or before.enabled == '0' and after.enabled == '1') then
  redis.call('HINCRBY', queue, 'revision', 1)
  redis.call('HDEL', queue, 'failing_since', 'fails', 'open_until', 'rests_until', 'window', 'took')
  redis.call('ZREM', before.breakers, queue)
  set_kind(queue, 'new')
end
if action == 'delete' then
  redis.call('SREM', endpoints, queue)
  redis.call('HDEL', queue, 'secret', 'old_secret', 'headers')
  redis.call('HSET', queue, 'deleted', '1')
  disable(queue, 'deleted')
elseif before.enabled == '1' and after.enabled == '0' then
  disable(queue, 'by its owner')
else
  if after.enabled == '1' then redis.call('HDEL', queue, 'disabled_why', 'disabled_at') end
  listen(queue, after.enabled == '1' and after.jobs == '1')
  wake(queue, NOW)
end
return 'ok'
