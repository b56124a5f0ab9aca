-- requires: base, common_keys
-- reads read_batch: n:results, finished, lanes, chores
--
-- Records that the results of an ended batch are in the bucket. Its records may expire now: those of its jobs first.
--
-- KEYS[6] batch   KEYS[7] its rejects
-- ARGV[4] number of the claim   ARGV[5] what was saved, JSON   ARGV[6] how long the batch's record is kept, ms
-- Returns 1, or 0 where another worker has claimed it since, or the batch was reopened.

local batch, rejects, number, saved, kept_ms = KEYS[6], KEYS[7], ARGV[4], ARGV[5], ARGV[6]
-- A job's record names its lane as long as it exists. The lane lives longer, to allow for clocks and retries.
local LANE_MARGIN = 7200000
local b = read_batch(batch)
if b['n:results'] ~= number then return 0 end
redis.call('ZREM', b.chores, 'results ' .. batch)
redis.call('HDEL', batch, 'u:results')
if not b.finished then return 0 end
redis.call('HSET', batch, 'results_at', AT, 'kept', saved)
redis.call('PEXPIRE', batch, kept_ms)
redis.call('PEXPIRE', rejects, kept_ms)
local lanes_kept_ms = RETENTION + LANE_MARGIN
for _, lane in ipairs(redis.call('SMEMBERS', b.lanes)) do redis.call('PEXPIRE', lane, lanes_kept_ms) end
redis.call('PEXPIRE', b.lanes, lanes_kept_ms)
return 1
