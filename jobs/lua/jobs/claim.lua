-- requires: base, common_keys
-- reads read_job: state, attempt, claimed, lane, holder, started
-- reads read_lane: owner, stopped, batch, trial, since, model
-- reads read_batch: defaults, changes, sheet, supersede, traceparent
--
-- A worker claims an attempt that the plan started, if it is still the job's attempt and nobody has claimed it.
--
-- KEYS[6] job
-- ARGV[4] attempt   ARGV[5] name of the worker
-- ARGV[6] a token of this claim, so that the same call sent again succeeds
-- Returns {} if the message is to be dropped, else {now in ms, name of the tenant, the batch's defaults (JSON, or ''),
-- the changes made when it was approved (JSON, or ''), '1' if it wants thumbnails, {field, value, …} of the job, and
-- among them its lane's `since`, its batch's `supersede` and `traceparent` where they exist, and `probe` where this
-- attempt tests whether a parked model is back}.

local job, attempt, worker, token = KEYS[6], ARGV[4], ARGV[5], ARGV[6]
local r = read_job(job)
if r.state ~= 'running' or r.attempt ~= attempt or (r.claimed and r.holder ~= token) then return {} end
local lane = read_lane(r.lane)
if lane.stopped == '1' then return {} end
local member = member_of(job, attempt)
-- Renews the lease if there is one. ZADD also answers 0 where the lease ends at this very ms already.
if redis.call('ZADD', LEASES, 'XX', 'CH', exact(NOW + LEASE), member) == 0
  and not redis.call('ZSCORE', LEASES, member) then return {} end
redis.call('HSET', job, 'claimed', AT, 'worker', worker, 'holder', token, 'started', r.started or AT)
local record = redis.call('HGETALL', job)
local function add_field(field, value)
  record[#record + 1] = field
  record[#record + 1] = value
end
local batch = lane.batch ~= '' and read_batch(lane.batch) or {}
if lane.since then add_field('since', lane.since) end
if batch.supersede then add_field('supersede', batch.supersede) end
if batch.traceparent then add_field('traceparent', batch.traceparent) end
if redis.call('HGET', lane.model, 'probe') == member then add_field('probe', '1') end
-- A job of the trial was edited before the approval.
local changes = lane.trial ~= '1' and batch.changes
return {AT, lane.owner, batch.defaults or '', changes or '', batch.sheet or '', record}
