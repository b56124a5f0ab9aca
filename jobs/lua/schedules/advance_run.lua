-- requires: base, records, writes, events
-- reads read_run: n:run, state, tenant
--
-- Advances a run after its batch was submitted or has ended. When a run ends, the next waiting run may start.
--
-- KEYS[6] background tasks   KEYS[7] run   KEYS[8] schedule   KEYS[9] its waiting runs
-- KEYS[10] batch; not touched without one
-- ARGV[4] number of the task's claim
-- ARGV[5] JSON: {fields: {field: text}, the new `state` among them where it changes,
--   seen: the batch's `finished` as the caller read it, or ''}
-- Returns 1, or 0 where another worker has claimed it since.

local tasks, run, schedule, waiting, batch = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local number, command = ARGV[4], cjson.decode(ARGV[5])
local r = read_run(run)
if r['n:run'] ~= number then return 0 end
local was_open = r.state == 'due' or r.state == 'running'
write_fields(run, command.fields)
redis.call('HDEL', run, 'u:run', 'waits_for')
local state = command.fields.state

local function start_next()
  redis.call('HDEL', schedule, 'current')
  local next_run = redis.call('LPOP', waiting)
  if next_run then
    redis.call('HSET', next_run, 'state', 'due')
    redis.call('HSET', schedule, 'current', next_run)
    redis.call('ZADD', tasks, AT, 'run ' .. next_run)
  end
end

if not state then
  redis.call('HDEL', run, 'cancel')
elseif state == 'running' then
  redis.call('HSET', run, 'started', AT)
  emit('schedule.run_started', r.tenant, run, cjson.encode(fields_of(run)))
else
  redis.call('HSET', run, 'finished', AT)
  redis.call('HDEL', run, 'cancel')
  if was_open and redis.call('EXISTS', schedule) == 1 then redis.call('HINCRBY', schedule, 'n:' .. state, 1) end
  if was_open and state == 'failed' then emit('schedule.run_failed', r.tenant, run, cjson.encode(fields_of(run))) end
  if redis.call('HGET', schedule, 'current') == run then start_next() end
end

-- If the batch has changed since the caller read it, the run is due again.
local finished = redis.call('HGET', batch, 'finished') or ''
if finished ~= command.seen or redis.call('HEXISTS', run, 'cancel') == 1 then
  redis.call('ZADD', tasks, AT, 'run ' .. run)
else
  redis.call('ZREM', tasks, 'run ' .. run)
end
return 1
