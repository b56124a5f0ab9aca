-- requires: base, writes
--
-- Creates or changes a schedule.
--
-- KEYS[6] schedule   KEYS[7] schedules due   KEYS[8] the tenant's schedules
-- ARGV[4] JSON: {revision: that the caller read, '' of a new one, set: {field: text}, drop: [field],
--   keep: whether its next tick stays as it is, next: its next tick, ms; null where nothing is due}
-- Returns 1, or 0 where it was changed or deleted since.

local schedule, due, schedules, command = KEYS[6], KEYS[7], KEYS[8], cjson.decode(ARGV[4])
if (redis.call('HGET', schedule, 'revision') or '') ~= command.revision then return 0 end
write_fields(schedule, command.set)
for _, field in ipairs(command.drop) do redis.call('HDEL', schedule, field) end
redis.call('HINCRBY', schedule, 'revision', 1)
if command.revision == '' then redis.call('HSET', schedule, 'created', AT) end
redis.call('ZADD', schedules, 0, schedule)
if command.keep then return 1 end
if command.next ~= cjson.null then
  redis.call('ZADD', due, exact(command.next), schedule)
else
  redis.call('ZREM', due, schedule)
end
return 1
