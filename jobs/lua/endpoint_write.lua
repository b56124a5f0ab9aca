-- An endpoint is made, changed or deleted, and with it what its tenant's jobs have to tell.
--
-- KEYS[10] endpoint (a line)   KEYS[11] SET of the tenant's endpoints
-- ARGV[5] create | change | delete   ARGV[6] most endpoints of a tenant
-- ARGV[7] JSON: {set: {field: text}, drop: [field]}; `jobs` is '1' where its filters take a job's event
-- Returns 'ok', 'full' or 'missing'.

local line, endpoints, act, order = KEYS[10], KEYS[11], ARGV[5], cjson.decode(ARGV[7])

if act == 'create' then
  if redis.call('SCARD', endpoints) >= tonumber(ARGV[6]) then return 'full' end
  redis.call('SADD', endpoints, line)
elseif redis.call('SISMEMBER', endpoints, line) == 0 then
  return 'missing'
end

local before = redis.call('HMGET', line, 'enabled', 'url', 'breakers')
for field, value in pairs(order.set) do redis.call('HSET', line, field, value) end
for _, field in ipairs(order.drop) do redis.call('HDEL', line, field) end

local l = redis.call('HMGET', line, 'enabled', 'jobs', 'url')
-- What was known of a receiver, and what tries under way may still say of it, holds neither for another address nor
-- for one that its owner has mended.
if act == 'change' and (before[2] ~= l[3] or before[1] == '0' and l[1] == '1') then
  redis.call('HINCRBY', line, 'revision', 1)
  redis.call('HDEL', line, 'failing_since', 'fails', 'open_until', 'rests_until', 'window', 'took')
  redis.call('ZREM', before[3], line)
  become(line, 'new')
end
if act == 'delete' then
  redis.call('SREM', endpoints, line)
  redis.call('HDEL', line, 'secret', 'old_secret', 'headers')
  redis.call('HSET', line, 'deleted', '1')
  disable(line, 'deleted')
elseif before[1] == '1' and l[1] == '0' then
  disable(line, 'by its owner')
else
  if l[1] == '1' then redis.call('HDEL', line, 'disabled_why', 'disabled_at') end
  listen(line, l[1] == '1' and l[2] == '1')
  wake(line, NOW)
end
return 'ok'
