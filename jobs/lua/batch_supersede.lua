-- A batch takes the place of jobs of earlier batches that wait under the same custom_id: they are canceled. What runs
-- goes on.
--
-- KEYS[6] the tenant's custom_id index   KEYS[7] batch
-- ARGV[4] what the batch's job keys begin with   ARGV[5] its id   ARGV[6…] custom_ids
-- Returns how many were canceled.

local MOST_LOOKED_AT = 200
local customs, batch, prefix = KEYS[6], KEYS[7], ARGV[4]
local canceled = 0
for i = 6, #ARGV do
  local low = ARGV[i] .. '\0'
  local found = redis.call('ZREVRANGEBYLEX', customs, '(' .. low .. prefix, '[' .. low, 'LIMIT', 0, MOST_LOOKED_AT)
  for _, member in ipairs(found) do
    local job = string.sub(member, #low + 1)
    local r = redis.call('HMGET', job, 'state', 'lane')
    if not r[1] then
      redis.call('ZREM', customs, member)
    elseif (r[1] == 'queued' or r[1] == 'waiting') and card_of(r[2]).batch ~= ''
      and redis.call('HGET', r[2], 'stopped') ~= '1' then
      redis.call('ZREM', WAITING, job)
      redis.call('HSET', job, 'error', cjson.encode({code = 'superseded', retryable = false,
        message = 'batch ' .. ARGV[5] .. ' edits this custom_id anew'}))
      finish(job, r[2], r[1], 'canceled')
      canceled = canceled + 1
    end
  end
end
if canceled > 0 then redis.call('HINCRBY', batch, 'superseded', canceled) end
return canceled
