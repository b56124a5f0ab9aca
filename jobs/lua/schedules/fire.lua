-- requires: base
-- reads read_schedule: tenant, overlap, catch_up, ends, name
--
-- Creates one run for each due tick of a schedule and moves the schedule to its next tick, in one step, for any number of
-- callers. A run is a record and a background task; a worker creates its batch from the record alone.
--
-- KEYS[6] schedules due   KEYS[7] background tasks   KEYS[8] schedule   KEYS[9] its runs   KEYS[10] its waiting runs
-- KEYS[11…] one run key a tick
-- ARGV[4] JSON: {
--   trigger: cron | manual,
--   ticks: [ms], rising; of a cron trigger the first one is the tick that the caller expects to be due,
--   next: the tick after the last one, ms; null where there is none,
--   made_up: whether this caller has claimed earlier ticks just before }
-- Returns {'ok', runs made, ticks missed} | {'moved'}: another tick is due | {'busy'}: a manual run
--   while the previous run has not ended and the schedule's overlap is skip | {'gone'}

local due, tasks, schedule, runs, waiting = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local BEFORE_FIRST_RUN, MAX_WAITING, MAX_KEPT = 10, 100, 500
local FINAL = {completed = true, unchanged = true, canceled = true, failed = true, skipped = true, missed = true}
local command = cjson.decode(ARGV[4])
local s = read_schedule(schedule)
if not s.tenant then return {'gone'} end
local catch_up, ends = tonumber(s.catch_up), tonumber(s.ends)

local function write(run, tick, state, reason)
  redis.call('HSET', run, 'schedule', schedule, 'tenant', s.tenant, 'name', s.name, 'tick', exact(tick), 'trigger',
    command.trigger, 'state', state, 'made', AT)
  if reason then redis.call('HSET', run, 'reason', reason) end
  if FINAL[state] then
    redis.call('HSET', run, 'finished', AT)
    redis.call('HINCRBY', schedule, 'n:' .. state, 1)
  end
  redis.call('ZADD', runs, exact(tick), run)
end

local function cancel_waiting()
  for _, run in ipairs(redis.call('LRANGE', waiting, 0, -1)) do
    redis.call('HSET', run, 'state', 'canceled', 'reason', 'a later run took its place', 'finished', AT)
    redis.call('HINCRBY', schedule, 'n:canceled', 1)
  end
  redis.call('DEL', waiting)
end

-- Writes a run. `overlap` says what to do if the previous run has not ended.
local function add_run(run, tick, overlap)
  if redis.call('EXISTS', run) == 1 then return end
  local current = redis.call('HGET', schedule, 'current')
  if not current then
    write(run, tick, 'due')
    redis.call('HSET', schedule, 'current', run)
    redis.call('ZADD', tasks, AT, 'run ' .. run)
  elseif overlap == 'skip' then
    write(run, tick, 'skipped', 'the run before had not ended')
  elseif overlap == 'queue' and redis.call('LLEN', waiting) >= MAX_WAITING then
    write(run, tick, 'skipped', MAX_WAITING .. ' runs wait already')
  else
    if overlap == 'cancel_previous' then
      cancel_waiting()
      redis.call('HSET', current, 'cancel', '1')
      redis.call('ZADD', tasks, AT, 'run ' .. current)
    end
    write(run, tick, 'queued')
    redis.call('RPUSH', waiting, run)
  end
end

local function trim()
  local excess = redis.call('ZCARD', runs) - MAX_KEPT
  if excess <= 0 then return end
  for _, run in ipairs(redis.call('ZRANGE', runs, 0, excess - 1)) do
    if FINAL[redis.call('HGET', run, 'state') or 'missed'] then
      redis.call('ZREM', runs, run)
      redis.call('UNLINK', run)
    end
  end
end

if command.trigger == 'manual' then
  local run = KEYS[BEFORE_FIRST_RUN + 1]
  local exists = redis.call('EXISTS', run) == 1
  if not exists and s.overlap == 'skip' and redis.call('HEXISTS', schedule, 'current') == 1 then return {'busy'} end
  add_run(run, command.ticks[1], s.overlap)
  trim()
  return {'ok', 1, 0}
end

if tonumber(redis.call('ZSCORE', due, schedule) or -1) ~= command.ticks[1] then return {'moved'} end
local made, missed = 0, 0
local next_tick = command.next ~= cjson.null and command.next or nil
for i, tick in ipairs(command.ticks) do
  local run = KEYS[BEFORE_FIRST_RUN + i]
  if tick > NOW or (ends and tick > ends) then
    next_tick = tick
    break
  elseif NOW - tick > catch_up and redis.call('EXISTS', run) == 0 then
    write(run, tick, 'missed', 'it was due during a downtime, before the catch-up window')
    missed = missed + 1
  else
    -- When a late tick was due, no earlier run was in progress: it waits, whatever the overlap policy.
    add_run(run, tick, (made > 0 or command.made_up) and 'queue' or s.overlap)
    made = made + 1
  end
end
if not next_tick or (ends and next_tick > ends) then
  redis.call('ZREM', due, schedule)
  redis.call('HSET', schedule, 'state', 'ended')
else
  redis.call('ZADD', due, exact(next_tick), schedule)
end
trim()
return {'ok', made, missed}
