-- The results of an ended batch are in the bucket. From now on its records may go: those of its jobs first.
--
-- KEYS[6] batch   KEYS[7] its refusals
-- ARGV[4] number of the claim   ARGV[5] what was kept, JSON   ARGV[6] how long the batch itself is known, ms
-- Returns 1, or 0 where the claim is another's, or the batch goes on again.

local batch = KEYS[6]
local b = redis.call('HMGET', batch, 'n:results', 'finished', 'lanes', 'chores')
if b[1] ~= ARGV[4] then return 0 end
redis.call('ZREM', b[4], 'results ' .. batch)
redis.call('HDEL', batch, 'u:results')
if not b[2] then return 0 end
redis.call('HSET', batch, 'results_at', AT, 'kept', ARGV[5])
redis.call('PEXPIRE', batch, ARGV[6])
redis.call('PEXPIRE', KEYS[7], ARGV[6])
-- A job's record names its lane for as long as it lives; both hours are spared for clocks and retries.
local after = RETENTION + 7200000
for _, lane in ipairs(redis.call('SMEMBERS', b[3])) do redis.call('PEXPIRE', lane, after) end
redis.call('PEXPIRE', b[3], after)
return 1
