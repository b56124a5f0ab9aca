-- A worker takes up an attempt that the plan started, if it is still the job's attempt and nobody did before.
--
-- KEYS[6] job
-- ARGV[4] attempt   ARGV[5] name of the worker
-- ARGV[6] a token of this claim, so that the same call sent again succeeds
-- Returns {} if the message is to be dropped, else {now in ms, name of the tenant, what the batch's jobs share (JSON,
-- or ''), what its approval changed (the same), '1' if it wants thumbnails, {field, value, …} of the record, and its
-- lane's `since` where it has one, its batch's `supersede` and `traceparent`, and `probe` where it is to find out
-- whether a parked model is back}.

local job, attempt, worker, token = KEYS[6], ARGV[4], ARGV[5], ARGV[6]
local r = redis.call('HMGET', job, 'state', 'attempt', 'claimed', 'lane', 'holder', 'started')
local l = r[4] and redis.call('HMGET', r[4], 'owner', 'stopped', 'batch', 'trial', 'since', 'model') or {}
if l[2] == '1' then return {} end
if r[1] ~= 'running' or r[2] ~= attempt or (r[3] and r[5] ~= token) then return {} end
local member = member_of(job, attempt)
if not redis.call('ZSCORE', LEASES, member) then return {} end
redis.call('ZADD', LEASES, exact(NOW + LEASE), member)
redis.call('HSET', job, 'claimed', AT, 'worker', worker, 'holder', token, 'started', r[6] or AT)
local record = redis.call('HGETALL', job)
local function tell(field, value)
  record[#record + 1] = field
  record[#record + 1] = value
end
local shared = l[3] ~= '' and redis.call('HMGET', l[3], 'defaults', 'changes', 'sheet', 'supersede', 'traceparent')
  or {}
if l[5] then tell('since', l[5]) end
if shared[4] then tell('supersede', shared[4]) end
if shared[5] then tell('traceparent', shared[5]) end
if redis.call('HGET', l[6], 'probe') == member then tell('probe', '1') end
return {AT, l[1], shared[1] or '', l[4] ~= '1' and shared[2] or '', shared[3] or '', record}
