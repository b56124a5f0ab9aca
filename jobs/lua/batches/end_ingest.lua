-- requires: base, batch_state
-- reads read_batch: n:ingest, ingested, state, lanes, chores
--
-- Ends the reading of a manifest, at its end or at an error.
--
-- KEYS[6] batch   KEYS[7] digests of its output keys
-- ARGV[4] number of the reader's claim   ARGV[5] why it cannot be read; '' where it was read
-- Returns 1, or 0 where another reader has claimed it since.

local batch, places, number, reason = KEYS[6], KEYS[7], ARGV[4], ARGV[5]
local b = read_batch(batch)
if b['n:ingest'] ~= number or b.ingested == '1' then return 0 end
redis.call('UNLINK', places)
redis.call('ZREM', b.chores, 'ingest ' .. batch)
redis.call('HSET', batch, 'ingested', '1', 'ingested_at', AT)
redis.call('HDEL', batch, 'mark', 'u:ingest', 'waits_for')
-- If a later row cannot be read, the jobs of earlier rows continue, and the batch keeps the reason.
if redis.call('SCARD', b.lanes) == 0 then
  redis.call('HSET', batch, 'state', 'failed', 'finished', AT,
    'reason', reason ~= '' and reason or 'the manifest has no row that can be edited')
  redis.call('ZADD', b.chores, AT, 'results ' .. batch)
  emit_batch('failed', batch)
  return 1
end
if reason ~= '' then redis.call('HSET', batch, 'fault', reason) end
if b.state == 'ingesting' then redis.call('HSET', batch, 'state', 'running') end
advance(batch)
return 1
