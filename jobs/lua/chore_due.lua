-- Work on whole batches that nobody does now: to be published. Until it is begun it is due again after a while, so that
-- a message that the broker lost costs time alone.
--
-- KEYS[6] chores
-- ARGV[4] ms until it is due again   ARGV[5] most of this call
-- Returns members `kind batch key`.

local due = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', AT, 'LIMIT', 0, ARGV[5])
for _, chore in ipairs(due) do redis.call('ZADD', KEYS[6], exact(NOW + tonumber(ARGV[4])), chore) end
return due
