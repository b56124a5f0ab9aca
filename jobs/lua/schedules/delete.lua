-- requires: nothing
--
-- Deletes a schedule and the records of its runs. Batches that they made continue.
--
-- KEYS[6] schedule   KEYS[7] schedules due   KEYS[8] the tenant's schedules   KEYS[9] its runs
-- KEYS[10] its waiting runs   KEYS[11] background tasks
-- Returns 1, or 0 where there was none.

local schedule, due, schedules, runs, waiting, tasks = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
redis.call('ZREM', due, schedule)
redis.call('ZREM', schedules, schedule)
for _, run in ipairs(redis.call('ZRANGE', runs, 0, -1)) do
  redis.call('ZREM', tasks, 'run ' .. run)
  redis.call('UNLINK', run)
end
redis.call('UNLINK', runs, waiting)
return redis.call('DEL', schedule)
