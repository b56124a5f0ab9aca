-- requires: transitions, batch_reopen, job_retry
-- reads read_job: state, lane
-- reads read_job_lane: stopped, batch, trial
--
-- The user retries an ended job, its attempts counted anew. A live checkpoint stays: it is paid.
--
-- KEYS[6] job
-- ARGV[4] deadline in ms from now, '' for none
-- Returns {its state now, '1' if this call changed it}; {} where there is no such job.

local job, deadline_ms = KEYS[6], tonumber(ARGV[4])
local r = read_job(job)
if not r.state then return {} end
local lane = read_job_lane(r.lane)
if lane.stopped == '1' then return {'being canceled with its batch', '0'} end
if not ALLOWED[r.state .. '>queued'] or r.state == 'waiting' or r.state == 'running' then return {r.state, '0'} end
if lane.batch ~= '' then reopen(lane.batch) end
retry_job(job, r.lane, r.state, lane.batch, lane.trial, deadline_ms)
return {'queued', '1'}
