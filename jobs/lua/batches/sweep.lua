-- requires: base, batch_state, job_end, job_retry
-- reads read_batch: n:sweep, sweep, cursor, lanes, chores, defaults
-- reads read_job: state, lane, finished, spec
--
-- Cancels or retries some jobs of a batch after the batch itself was canceled or retried.
--
-- KEYS[6] batch
-- ARGV[4] number of the claim   ARGV[5] prefix of the batch's job keys   ARGV[6] jobs of this call at most
-- Returns 1 when all is done, 0 when there is more, -1 where another worker has claimed it since.

local batch, number, prefix, max_jobs = KEYS[6], ARGV[4], ARGV[5], tonumber(ARGV[6])
local b = read_batch(batch)
if b['n:sweep'] ~= number or not b.sweep then return -1 end
local sweep, lanes = cjson.decode(b.sweep), redis.call('SMEMBERS', b.lanes)
local defaults = b.defaults and cjson.decode(b.defaults) or {}

local function retry(job, r)
  -- A job that ended after the user's retry has been retried since.
  if tonumber(r.finished or 0) > sweep.before then return end
  local deadline_s = cjson.decode(r.spec).deadline_s or defaults.deadline_s
  local deadline_ms = deadline_s and math.floor(deadline_s * 1000) or nil
  retry_job(job, r.lane, r.state, batch, redis.call('HGET', r.lane, 'trial'), deadline_ms)
end

local place, cursor = 1, prefix
if b.cursor then
  local at = string.find(b.cursor, ' ', 1, true)
  place, cursor = tonumber(string.sub(b.cursor, 1, at - 1)), string.sub(b.cursor, at + 1)
end
local left = max_jobs
while lanes[1] and place <= #sweep.states and left > 0 do
  local state = sweep.states[place]
  local index = redis.call('HGET', lanes[1], 'i:' .. state)
  local found = redis.call('ZRANGEBYLEX', index, '(' .. cursor, '(' .. prefix .. '\255', 'LIMIT', 0, left)
  for _, job in ipairs(found) do
    local r = read_job(job)
    if not r.state then
      redis.call('ZREM', index, job)
    elseif r.state == state and sweep.kind == 'cancel' then
      cancel_with_batch(job, r.lane, state)
    elseif r.state == state then
      retry(job, r)
    end
    cursor = job
  end
  if #found < left then place, cursor = place + 1, prefix end
  left = left - #found
end
if lanes[1] and place <= #sweep.states then
  redis.call('HSET', batch, 'cursor', place .. ' ' .. cursor)
  return 0
end
redis.call('HDEL', batch, 'sweep', 'cursor', 'u:sweep')
redis.call('ZREM', b.chores, 'sweep ' .. batch)
if sweep.kind == 'cancel' then
  for _, lane in ipairs(lanes) do redis.call('HDEL', lane, 'stopped', 'held') end
  redis.call('ZADD', b.chores, AT, 'results ' .. batch)
else
  advance(batch)
end
return 1
