-- A run goes on: its batch was begun, or it has ended. Where it has, the next one that waits may begin.
--
-- KEYS[6] chores   KEYS[7] run   KEYS[8] schedule   KEYS[9] its runs that wait
-- KEYS[10] batch; not touched without one
-- ARGV[4] number of the chore's claim
-- ARGV[5] JSON: {fields: {field: text}, the new `state` among them where it changes,
--   seen: the batch's `finished` as the caller saw it, or ''}
-- Returns 1, or 0 where the claim is another's.

local chores, run, schedule, waiting, batch = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local order = cjson.decode(ARGV[5])
local r = redis.call('HMGET', run, 'n:run', 'state', 'tenant')
if r[1] ~= ARGV[4] then return 0 end
local was_open = r[2] == 'due' or r[2] == 'running'
for field, value in pairs(order.fields) do redis.call('HSET', run, field, value) end
redis.call('HDEL', run, 'u:run', 'waits_for')
local state = order.fields.state

if not state then
  redis.call('HDEL', run, 'cancel')
elseif state == 'running' then
  redis.call('HSET', run, 'started', AT)
  emit('schedule.run_started', r[3], run, cjson.encode(fields_of(run)))
else
  redis.call('HSET', run, 'finished', AT)
  redis.call('HDEL', run, 'cancel')
  if was_open and redis.call('EXISTS', schedule) == 1 then redis.call('HINCRBY', schedule, 'n:' .. state, 1) end
  if was_open and state == 'failed' then emit('schedule.run_failed', r[3], run, cjson.encode(fields_of(run))) end
  if redis.call('HGET', schedule, 'current') == run then
    redis.call('HDEL', schedule, 'current')
    local after = redis.call('LPOP', waiting)
    if after then
      redis.call('HSET', after, 'state', 'due')
      redis.call('HSET', schedule, 'current', after)
      redis.call('ZADD', chores, AT, 'run ' .. after)
    end
  end
end

-- What happened to the batch since the caller looked is not to be missed.
local finished = redis.call('HGET', batch, 'finished') or ''
if finished ~= order.seen or redis.call('HEXISTS', run, 'cancel') == 1 then
  redis.call('ZADD', chores, AT, 'run ' .. run)
else
  redis.call('ZREM', chores, 'run ' .. run)
end
return 1
