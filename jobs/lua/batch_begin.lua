-- A batch is written, and its manifest is to be read. When this returns, it is durable.
--
-- KEYS[6] batch   KEYS[7] the tenant's batches   KEYS[8] chores
-- KEYS[9] what the Idempotency-Key stands for; not touched where ARGV[4] names none
-- ARGV[4] JSON: {idempotency: null | {body: SHA-256, ttl_ms}, fields: {field: text}}
-- Returns {'ok'} | {'replayed', key of the earlier batch} | {'mismatch'}

local batch, idempotency, order = KEYS[6], KEYS[9], cjson.decode(ARGV[4])

if order.idempotency ~= cjson.null then
  local earlier = redis.call('HMGET', idempotency, 'body', 'jobs')
  if earlier[1] and earlier[1] ~= order.idempotency.body then return {'mismatch'} end
  if earlier[1] and earlier[2] ~= batch then return {'replayed', earlier[2]} end
end
if redis.call('EXISTS', batch) == 1 then return {'ok'} end

for field, value in pairs(order.fields) do redis.call('HSET', batch, field, value) end
redis.call('HSET', batch, 'state', 'ingesting', 'created', AT)
redis.call('ZADD', KEYS[7], 0, batch)
redis.call('ZADD', KEYS[8], AT, 'ingest ' .. batch)
if order.idempotency ~= cjson.null then
  redis.call('HSET', idempotency, 'body', order.idempotency.body, 'jobs', batch)
  redis.call('PEXPIRE', idempotency, order.idempotency.ttl_ms)
end
return {'ok'}
