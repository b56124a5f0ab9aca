-- The record of a job follows its output to another key.
--
-- KEYS[6] job
-- ARGV[4] its output as the caller read it   ARGV[5] its output now
-- Returns 1, or 0 where the record says something else by now.

if redis.call('HGET', KEYS[6], 'output') ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[6], 'output', ARGV[5])
return 1
