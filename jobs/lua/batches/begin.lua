-- requires: base, writes
-- reads read_replay: body, jobs
--
-- Writes a batch. A background task then reads its manifest. When this returns, the batch is durable.
--
-- KEYS[6] batch   KEYS[7] the tenant's batches   KEYS[8] background tasks
-- KEYS[9] record of the Idempotency-Key; not touched where ARGV[4] names none
-- ARGV[4] JSON: {idempotency: null | {body: SHA-256, ttl_ms}, fields: {field: text}}
-- Returns {'ok'} | {'replayed', key of the earlier batch} | {'mismatch'}

local batch, batches, tasks, idempotency, command = KEYS[6], KEYS[7], KEYS[8], KEYS[9], cjson.decode(ARGV[4])

if command.idempotency ~= cjson.null then
  local earlier = read_replay(idempotency)
  if earlier.body and earlier.body ~= command.idempotency.body then return {'mismatch'} end
  if earlier.body and earlier.jobs ~= batch then return {'replayed', earlier.jobs} end
end
if redis.call('EXISTS', batch) == 1 then return {'ok'} end

write_fields(batch, command.fields)
redis.call('HSET', batch, 'state', 'ingesting', 'created', AT)
redis.call('ZADD', batches, 0, batch)
redis.call('ZADD', tasks, AT, 'ingest ' .. batch)
if command.idempotency ~= cjson.null then
  redis.call('HSET', idempotency, 'body', command.idempotency.body, 'jobs', batch)
  redis.call('PEXPIRE', idempotency, command.idempotency.ttl_ms)
end
return {'ok'}
