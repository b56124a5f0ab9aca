-- A schedule is made or changed.
--
-- KEYS[6] schedule   KEYS[7] schedules due   KEYS[8] the tenant's schedules
-- ARGV[4] JSON: {revision: the one the caller read, '' of a new one, set: {field: text}, drop: [field],
--   keep: whether its next tick stays what it is, next: its next tick, ms; null where nothing is due}
-- Returns 1, or 0 where it was changed or deleted since.

local schedule, order = KEYS[6], cjson.decode(ARGV[4])
if (redis.call('HGET', schedule, 'revision') or '') ~= order.revision then return 0 end
for field, value in pairs(order.set) do redis.call('HSET', schedule, field, value) end
for _, field in ipairs(order.drop) do redis.call('HDEL', schedule, field) end
redis.call('HINCRBY', schedule, 'revision', 1)
if order.revision == '' then redis.call('HSET', schedule, 'created', AT) end
redis.call('ZADD', KEYS[8], 0, schedule)
if order.keep then return 1 end
if order.next ~= cjson.null then
  redis.call('ZADD', KEYS[7], exact(order.next), schedule)
else
  redis.call('ZREM', KEYS[7], schedule)
end
return 1
