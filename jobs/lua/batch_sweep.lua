-- A stretch of a batch's jobs follows what the batch has said already: canceled, or tried again.
--
-- KEYS[6] batch
-- ARGV[4] number of the claim   ARGV[5] what the batch's job keys begin with   ARGV[6] most jobs of this call
-- Returns 1 when all is done, 0 when there is more, -1 where the claim is another's.

local batch, prefix, most = KEYS[6], ARGV[5], tonumber(ARGV[6])
local b = redis.call('HMGET', batch, 'n:sweep', 'sweep', 'cursor', 'lanes', 'chores', 'defaults')
if b[1] ~= ARGV[4] or not b[2] then return -1 end
local sweep, lanes = cjson.decode(b[2]), redis.call('SMEMBERS', b[4])
local defaults = b[6] and cjson.decode(b[6]) or {}

local function cancel(job, state, lane)
  turned(job, lane, state)
end

local function retry(job, state, lane, finished, spec)
  -- One that ended after the user asked was tried since.
  if tonumber(finished or 0) > sweep.before then return end
  local deadline = cjson.decode(spec).deadline_s or defaults.deadline_s
  again(job, lane, state, batch, redis.call('HGET', lane, 'trial'), deadline and math.floor(deadline * 1000) or nil)
end

local place, cursor = 1, prefix
if b[3] then
  local at = string.find(b[3], ' ', 1, true)
  place, cursor = tonumber(string.sub(b[3], 1, at - 1)), string.sub(b[3], at + 1)
end
local act = sweep.kind == 'cancel' and cancel or retry
local left = most
while lanes[1] and place <= #sweep.states and left > 0 do
  local state = sweep.states[place]
  local index = redis.call('HGET', lanes[1], 'i:' .. state)
  local found = redis.call('ZRANGEBYLEX', index, '(' .. cursor, '(' .. prefix .. '\255', 'LIMIT', 0, left)
  for _, job in ipairs(found) do
    local r = redis.call('HMGET', job, 'state', 'lane', 'finished', 'spec')
    if r[1] == state then
      act(job, state, r[2], r[3], r[4])
    elseif not r[1] then
      redis.call('ZREM', index, job)
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
redis.call('ZREM', b[5], 'sweep ' .. batch)
if sweep.kind == 'cancel' then
  for _, lane in ipairs(lanes) do redis.call('HDEL', lane, 'stopped', 'held') end
  redis.call('ZADD', b[5], AT, 'results ' .. batch)
else
  advance(batch)
end
return 1
