-- A schedule goes, and the records of its runs. Batches that they made go on.
--
-- KEYS[6] schedule   KEYS[7] schedules due   KEYS[8] the tenant's schedules   KEYS[9] its runs
-- KEYS[10] runs that wait   KEYS[11] chores
-- Returns 1, or 0 where there was none.

redis.call('ZREM', KEYS[7], KEYS[6])
redis.call('ZREM', KEYS[8], KEYS[6])
for _, run in ipairs(redis.call('ZRANGE', KEYS[9], 0, -1)) do
  redis.call('ZREM', KEYS[11], 'run ' .. run)
  redis.call('UNLINK', run)
end
redis.call('UNLINK', KEYS[9], KEYS[10])
return redis.call('DEL', KEYS[6])
