-- What was collected for a digest becomes one delivery, once.
--
-- KEYS[10] delivery   KEYS[11] its line   KEYS[12] digest HASH   KEYS[13] its LIST   KEYS[14] digests ZSET by due, ms
-- ARGV[5] `seq` of the digest as it was read   ARGV[6] items that are in the delivery
-- ARGV[7] JSON: {field: text} of the delivery   ARGV[8] ms until the next one, where there is more
-- Returns 1; 0 where another teller was faster.

local delivery, line, digest, list, due = KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
if (redis.call('HGET', digest, 'seq') or '0') ~= ARGV[5] then return 0 end
redis.call('HINCRBY', digest, 'seq', 1)
redis.call('LTRIM', list, ARGV[6], -1)
if redis.call('LLEN', list) > 0 then
  redis.call('ZADD', due, exact(NOW + tonumber(ARGV[8])), digest)
else
  redis.call('ZREM', due, digest)
  redis.call('PEXPIRE', digest, RETENTION.exhausted)
end
-- Its endpoint may have been disabled since: then it is exhausted, and can be recovered.
write(delivery, line, cjson.decode(ARGV[7]))
return 1
