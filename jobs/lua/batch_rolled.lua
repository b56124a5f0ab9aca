-- A stretch of a batch's output keys was pointed back.
--
-- KEYS[6] batch
-- ARGV[4] number of the claim   ARGV[5] the last row that was done   ARGV[6] what came of all so far, JSON
-- ARGV[7] '1' where that was all
-- Returns 1, or 0 where the claim is another's.

local batch = KEYS[6]
local b = redis.call('HMGET', batch, 'n:rollback', 'chores')
if b[1] ~= ARGV[4] then return 0 end
redis.call('HSET', batch, 'rollback', ARGV[6], 'rollback_row', ARGV[5])
if ARGV[7] == '1' then
  redis.call('HDEL', batch, 'u:rollback', 'rollback_row')
  redis.call('ZREM', b[2], 'rollback ' .. batch)
end
return 1
