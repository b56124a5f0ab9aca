-- requires: nothing
--
-- The record of a job follows its output to another key.
--
-- KEYS[6] job
-- ARGV[4] its output as the caller read it   ARGV[5] its output now
-- Returns 1, or 0 where the record has changed since.

local job, expected, output = KEYS[6], ARGV[4], ARGV[5]
if redis.call('HGET', job, 'output') ~= expected then return 0 end
redis.call('HSET', job, 'output', output)
return 1
