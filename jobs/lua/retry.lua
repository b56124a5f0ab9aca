-- The user wants an ended job tried again, with its attempts counted anew. A live checkpoint stays: it is paid for.
--
-- KEYS[6] job
-- ARGV[4] deadline in ms from now, '' for none
-- Returns {state it is in now, '1' if this call changed it}; {} where there is no such job.

local job = KEYS[6]
local r = redis.call('HMGET', job, 'state', 'lane')
if not r[1] then return {} end
local l = redis.call('HMGET', r[2], 'stopped', 'batch', 'trial')
if l[1] == '1' then return {'being canceled with its batch', '0'} end
if not ALLOWED[r[1] .. '>queued'] or r[1] == 'waiting' or r[1] == 'running' then return {r[1], '0'} end
if l[2] ~= '' then reopen(l[2]) end
again(job, r[2], r[1], l[2], l[3], ARGV[4] ~= '' and tonumber(ARGV[4]) or nil)
return {'queued', '1'}
