-- A manifest has been read to its end, or cannot be.
--
-- KEYS[6] batch   KEYS[7] digests of the places of its results
-- ARGV[4] number of the reader's claim   ARGV[5] why it cannot be read; '' where it was
-- Returns 1, or 0 where the claim is another reader's by now.

local batch, why = KEYS[6], ARGV[5]
local b = redis.call('HMGET', batch, 'n:ingest', 'ingested', 'state', 'lanes', 'chores')
if b[1] ~= ARGV[4] or b[2] == '1' then return 0 end
redis.call('UNLINK', KEYS[7])
redis.call('ZREM', b[5], 'ingest ' .. batch)
redis.call('HSET', batch, 'ingested', '1', 'ingested_at', AT)
redis.call('HDEL', batch, 'mark', 'u:ingest', 'waits_for')
-- Jobs of its first rows may be there when its end turns out to be unreadable: they go on, and the reason stays.
if redis.call('SCARD', b[4]) == 0 then
  redis.call('HSET', batch, 'state', 'failed', 'finished', AT,
    'reason', why ~= '' and why or 'the manifest has no row that can be edited')
  redis.call('ZADD', b[5], AT, 'results ' .. batch)
  emit_batch('failed', batch)
  return 1
end
if why ~= '' then redis.call('HSET', batch, 'fault', why) end
if b[3] == 'ingesting' then redis.call('HSET', batch, 'state', 'running') end
advance(batch)
return 1
