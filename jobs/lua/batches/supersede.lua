-- requires: common_keys, lanes, job_end
-- reads read_job: state, lane
--
-- Cancels jobs of earlier batches that are queued or waiting and have the same custom_id as a job of this batch.
-- Running jobs continue.
--
-- KEYS[6] the tenant's custom_id index   KEYS[7] batch
-- ARGV[4] prefix of the batch's job keys   ARGV[5] its id   ARGV[6…] custom_ids
-- Returns how many were canceled.

local customs, batch, prefix, batch_id = KEYS[6], KEYS[7], ARGV[4], ARGV[5]
local FIRST_CUSTOM_ID, MAX_EARLIER = 6, 200
local canceled = 0
for i = FIRST_CUSTOM_ID, #ARGV do
  local low = ARGV[i] .. '\0'
  local found = redis.call('ZREVRANGEBYLEX', customs, '(' .. low .. prefix, '[' .. low, 'LIMIT', 0, MAX_EARLIER)
  for _, member in ipairs(found) do
    local job = string.sub(member, #low + 1)
    local r = read_job(job)
    if not r.state then
      redis.call('ZREM', customs, member)
    elseif (r.state == 'queued' or r.state == 'waiting') and lane_record(r.lane).batch ~= ''
      and lane_record(r.lane).stopped ~= '1' then
      redis.call('ZREM', WAITING, job)
      redis.call('HSET', job, 'error', cjson.encode({code = 'superseded', retryable = false,
        message = 'batch ' .. batch_id .. ' edits this custom_id anew'}))
      finish(job, r.lane, r.state, 'canceled')
      canceled = canceled + 1
    end
  end
end
if canceled > 0 then redis.call('HINCRBY', batch, 'superseded', canceled) end
return canceled
