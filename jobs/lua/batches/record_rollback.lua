-- requires: nothing
-- reads read_batch: n:rollback, chores
--
-- Records that some of a batch's output keys were moved back.
--
-- KEYS[6] batch
-- ARGV[4] number of the claim   ARGV[5] the last row that was done   ARGV[6] results so far, JSON
-- ARGV[7] '1' where that was all
-- Returns 1, or 0 where another worker has claimed it since.

local batch, number, row, results, done = KEYS[6], ARGV[4], ARGV[5], ARGV[6], ARGV[7] == '1'
local b = read_batch(batch)
if b['n:rollback'] ~= number then return 0 end
redis.call('HSET', batch, 'rollback', results, 'rollback_row', row)
if done then
  redis.call('HDEL', batch, 'u:rollback', 'rollback_row')
  redis.call('ZREM', b.chores, 'rollback ' .. batch)
end
return 1
