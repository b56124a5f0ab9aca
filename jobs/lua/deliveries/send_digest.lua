-- requires: base, delivery_keys, delivery_write
--
-- Turns the collected items of a digest into one delivery, once.
--
-- KEYS[10] delivery   KEYS[11] its receiver queue   KEYS[12] digest HASH   KEYS[13] its LIST
-- KEYS[14] digests ZSET by due, ms
-- ARGV[5] `seq` of the digest as the caller read it   ARGV[6] items that are in the delivery
-- ARGV[7] JSON: {field: text} of the delivery   ARGV[8] ms until the next one, where there are more items
-- Returns 1; 0 where another caller was faster.

local delivery, queue, digest, items, due = KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local seq, number, fields, every_ms = ARGV[5], ARGV[6], cjson.decode(ARGV[7]), tonumber(ARGV[8])
if (redis.call('HGET', digest, 'seq') or '0') ~= seq then return 0 end
redis.call('HINCRBY', digest, 'seq', 1)
redis.call('LTRIM', items, number, -1)
if redis.call('LLEN', items) > 0 then
  redis.call('ZADD', due, exact(NOW + every_ms), digest)
else
  redis.call('ZREM', due, digest)
  redis.call('PEXPIRE', digest, RETENTION.exhausted)
end
-- Where the endpoint was disabled since, the delivery is exhausted, and can be redelivered.
write_delivery(delivery, queue, fields)
return 1
