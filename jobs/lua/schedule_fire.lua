-- A schedule's ticks become runs, once each, and the schedule moves to its next tick: one step, whoever calls, however
-- many. A run is a record and a chore; a worker makes its batch from the record alone.
--
-- KEYS[6] schedules due   KEYS[7] chores   KEYS[8] schedule   KEYS[9] its runs   KEYS[10] runs that wait
-- KEYS[11…] one run key a tick
-- ARGV[4] JSON: {
--   trigger: cron | manual,
--   ticks: [ms], rising; of a cron trigger the first one is the tick that the caller believes is due,
--   next: the tick after the last one, ms; null where there is none,
--   made_up: whether ticks before these were claimed in the same breath }
-- Returns {'ok', runs made, ticks missed} | {'moved'}: that tick is not the present one | {'busy'}: a manual run
--   where the run before goes on and the schedule skips | {'gone'}

local MOST_WAITING, MOST_KEPT = 100, 500
local FINAL = {completed = true, unchanged = true, canceled = true, failed = true, skipped = true, missed = true}
local due, chores, schedule, runs, waiting = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local order = cjson.decode(ARGV[4])
local s = redis.call('HMGET', schedule, 'tenant', 'overlap', 'catch_up', 'ends', 'name')
if not s[1] then return {'gone'} end
local tenant, overlap, catch_up, ends = s[1], s[2], tonumber(s[3]), tonumber(s[4])

local function write(run, tick, state, reason)
  redis.call('HSET', run, 'schedule', schedule, 'tenant', tenant, 'name', s[5], 'tick', exact(tick), 'trigger',
    order.trigger, 'state', state, 'made', AT)
  if reason then redis.call('HSET', run, 'reason', reason) end
  if FINAL[state] then
    redis.call('HSET', run, 'finished', AT)
    redis.call('HINCRBY', schedule, 'n:' .. state, 1)
  end
  redis.call('ZADD', runs, exact(tick), run)
end

local function give_way()
  for _, run in ipairs(redis.call('LRANGE', waiting, 0, -1)) do
    redis.call('HSET', run, 'state', 'canceled', 'reason', 'a later run took its place', 'finished', AT)
    redis.call('HINCRBY', schedule, 'n:canceled', 1)
  end
  redis.call('DEL', waiting)
end

local function place(run, tick, policy)
  if redis.call('EXISTS', run) == 1 then return end
  local current = redis.call('HGET', schedule, 'current')
  if not current then
    write(run, tick, 'due')
    redis.call('HSET', schedule, 'current', run)
    redis.call('ZADD', chores, AT, 'run ' .. run)
  elseif policy == 'skip' then
    write(run, tick, 'skipped', 'the run before had not ended')
  elseif policy == 'queue' and redis.call('LLEN', waiting) >= MOST_WAITING then
    write(run, tick, 'skipped', MOST_WAITING .. ' runs wait already')
  else
    if policy == 'cancel_previous' then
      give_way()
      redis.call('HSET', current, 'cancel', '1')
      redis.call('ZADD', chores, AT, 'run ' .. current)
    end
    write(run, tick, 'queued')
    redis.call('RPUSH', waiting, run)
  end
end

local function trim()
  local over = redis.call('ZCARD', runs) - MOST_KEPT
  if over <= 0 then return end
  for _, run in ipairs(redis.call('ZRANGE', runs, 0, over - 1)) do
    if FINAL[redis.call('HGET', run, 'state') or 'missed'] then
      redis.call('ZREM', runs, run)
      redis.call('UNLINK', run)
    end
  end
end

if order.trigger == 'manual' then
  local again = redis.call('EXISTS', KEYS[11]) == 1
  if not again and overlap == 'skip' and redis.call('HEXISTS', schedule, 'current') == 1 then return {'busy'} end
  place(KEYS[11], order.ticks[1], overlap)
  trim()
  return {'ok', 1, 0}
end

if tonumber(redis.call('ZSCORE', due, schedule) or -1) ~= order.ticks[1] then return {'moved'} end
local made, missed = 0, 0
local next_tick = order.next ~= cjson.null and order.next or nil
for i, tick in ipairs(order.ticks) do
  if tick > NOW or (ends and tick > ends) then
    next_tick = tick
    break
  elseif NOW - tick > catch_up and redis.call('EXISTS', KEYS[10 + i]) == 0 then
    write(KEYS[10 + i], tick, 'missed', 'it was due during a downtime, before the catch-up window')
    missed = missed + 1
  else
    -- The run before did not go on when a tick that is made up for was due: it waits, whatever the policy.
    place(KEYS[10 + i], tick, (made > 0 or order.made_up) and 'queue' or overlap)
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
