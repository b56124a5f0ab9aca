-- The provider has answered: its answer and what it cost are recorded before anything else is done with them.
--
-- KEYS[6] job
-- ARGV[4] attempt   ARGV[5] the checkpoint, JSON; '' clears it   ARGV[6] cost in millionths of a dollar
-- ARGV[7] what is known of the picture, JSON
-- Returns 1, or 0 where the attempt is no longer the job's: whoever holds the answer must drop it. The cost counts
-- either way, once an attempt: it was paid.

local job = KEYS[6]
local r = redis.call('HMGET', job, 'state', 'attempt', 'lane')
if not r[1] then return 0 end
charge(job, ARGV[4], r[3], tonumber(ARGV[6]))
if r[1] ~= 'running' or r[2] ~= ARGV[4] or redis.call('HGET', r[3], 'stopped') == '1' then return 0 end
if ARGV[5] == '' then
  redis.call('HDEL', job, 'checkpoint')
else
  redis.call('HSET', job, 'checkpoint', ARGV[5], 'input', ARGV[7])
end
return 1
