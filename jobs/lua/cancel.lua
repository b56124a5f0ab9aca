-- The user stops a job. One that runs keeps its place in the window until its worker lets go.
--
-- KEYS[6] job
-- Returns {state it is in now, '1' if this call changed it}; {} where there is no such job.

local job = KEYS[6]
local r = redis.call('HMGET', job, 'state', 'lane')
if not r[1] then return {} end
if redis.call('HGET', r[2], 'stopped') == '1' then return {'canceled', '0'} end
if not ALLOWED[r[1] .. '>canceled'] then return {r[1], '0'} end
redis.call('ZREM', WAITING, job)
finish(job, r[2], r[1], 'canceled')
return {'canceled', '1'}
