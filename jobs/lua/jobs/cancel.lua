-- requires: common_keys, transitions, job_end
-- reads read_job: state, lane
--
-- The user cancels a job. A running job keeps its place in the window until its worker stops.
--
-- KEYS[6] job
-- Returns {its state now, '1' if this call changed it}; {} where there is no such job.

local job = KEYS[6]
local r = read_job(job)
if not r.state then return {} end
if redis.call('HGET', r.lane, 'stopped') == '1' then return {'canceled', '0'} end
if not ALLOWED[r.state .. '>canceled'] then return {r.state, '0'} end
redis.call('ZREM', WAITING, job)
finish(job, r.lane, r.state, 'canceled')
return {'canceled', '1'}
