-- requires: base
--
-- Lists background tasks that no worker holds, to be published. A task that nobody claims becomes due again after a
-- while: a message that the broker lost costs time, nothing else.
--
-- KEYS[6] background tasks
-- ARGV[4] ms until it is due again   ARGV[5] tasks of this call at most
-- Returns members `kind key`.

local tasks, again_ms, max_tasks = KEYS[6], tonumber(ARGV[4]), ARGV[5]
local due = redis.call('ZRANGEBYSCORE', tasks, '-inf', AT, 'LIMIT', 0, max_tasks)
for _, task in ipairs(due) do redis.call('ZADD', tasks, exact(NOW + again_ms), task) end
return due
