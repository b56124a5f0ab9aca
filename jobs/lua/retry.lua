-- The user wants an ended job tried again, with its attempts counted anew. A live checkpoint stays: it is paid for.
--
-- KEYS[6] job
-- ARGV[4] deadline in ms from now, '' for none
-- Returns {state it is in now, '1' if this call changed it}; {} where there is no such job.

local job = KEYS[6]
local r = redis.call('HMGET', job, 'state', 'lane')
if not r[1] then return {} end
if not ALLOWED[r[1] .. '>queued'] or r[1] == 'waiting' or r[1] == 'running' then return {r[1], '0'} end
redis.call('PERSIST', job)
redis.call('HDEL', job, 'finished', 'error', 'tries', 'lost', 'claimed', 'worker', 'holder', 'deadline')
if ARGV[4] ~= '' then
  local deadline = NOW + tonumber(ARGV[4])
  redis.call('HSET', job, 'deadline', exact(deadline))
  redis.call('ZADD', DEADLINES, exact(deadline), job)
end
move(job, r[2], r[1], 'queued')
enqueue(job, r[2], true)
return {'queued', '1'}
