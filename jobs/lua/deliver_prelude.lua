-- Prepended to every script about deliveries, instead of prelude.lua.
--
--   KEYS[1] outbox       STREAM
--   KEYS[2] lines        ZSET  line key -> when to look at it again, ms
--   KEYS[3] quick lines  LIST  lines with something due, of receivers that answer well and soon
--   KEYS[4] slow lines   LIST  the same of all others: slow, failing, or not known yet
--   KEYS[5] quick leases ZSET  delivery key#number -> end of the lease, ms
--   KEYS[6] slow leases  ZSET
--   KEYS[7] tellers      ZSET  name#threads of each live webhook worker -> when it counts as gone, ms
--   ARGV[1] now, ms since 1970; 0 takes the server's clock (the only clock of the fleet; tests give their own)
--   ARGV[2] length of a lease, ms
--   ARGV[3] retention of a delivery that succeeded, ms   ARGV[4] of one that was exhausted, ms
-- A line is an endpoint's record, or that of the addresses of one origin that jobs and batches name. It names the keys
-- it belongs with (due, tenant, listeners, i:STATE), and a delivery names its line, so no key is put together here.

local OUTBOX, LINES = KEYS[1], KEYS[2]
local LISTS = {quick = KEYS[3], slow = KEYS[4]}
local LEASES = {quick = KEYS[5], slow = KEYS[6]}
local TELLERS = KEYS[7]

local function clock()
  if ARGV[1] ~= '0' then return tonumber(ARGV[1]) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local NOW = clock()
local LEASE = tonumber(ARGV[2])
local RETENTION = {succeeded = tonumber(ARGV[3]), exhausted = tonumber(ARGV[4])}

-- A window begins small, grows by one with each success and halves with each failure.
local FIRST_WINDOW, LARGEST_WINDOW = 4, 32
-- So many failures in a row open the breaker: one try at a time, and a tenth of one thread's time.
local BREAKS_AT, PAUSE_FACTOR, SHORTEST_PAUSE = 5, 10, 50
-- A receiver whose answers take longer on average is a slow one.
local QUICK_MS = 1000
-- Nothing but failures for so long disables an endpoint.
local PATIENCE = 5 * 86400000
local LOG_BYTES = 24576

local ALLOWED = {
  ['new>waiting'] = true, ['waiting>sending'] = true, ['waiting>succeeded'] = true, ['waiting>exhausted'] = true,
  ['sending>waiting'] = true, ['sending>succeeded'] = true, ['sending>exhausted'] = true,
  ['succeeded>waiting'] = true, ['exhausted>waiting'] = true,
}

local function exact(number) return string.format('%.17g', number) end

local function member_of(delivery, number) return delivery .. '#' .. number end

local function parts_of(member)
  local at = string.find(member, '#', 1, true)
  return string.sub(member, 1, at - 1), string.sub(member, at + 1)
end

local function first_score(zset)
  return tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2])
end

local function wake(line, at) redis.call('ZADD', LINES, 'LT', exact(at), line) end

-- A line takes its place at the end of its list, once.
local function line_up(line)
  local l = redis.call('HMGET', line, 'listed', 'quick')
  if l[1] == '1' then return end
  redis.call('HSET', line, 'listed', '1')
  redis.call('RPUSH', LISTS[l[2] == '1' and 'quick' or 'slow'], line)
end

-- The one place where a delivery's state changes: record, index, line.
local function move(delivery, line, from, to, due)
  if not ALLOWED[from .. '>' .. to] then
    error(redis.error_reply('ILLEGAL transition ' .. from .. ' to ' .. to .. ' of ' .. delivery).err)
  end
  local l = redis.call('HMGET', line, 'i:' .. from, 'i:' .. to, 'due')
  redis.call('HSET', delivery, 'state', to)
  if l[1] then redis.call('ZREM', l[1], delivery) end
  redis.call('ZADD', l[2], 0, delivery)
  redis.call('PEXPIRE', l[2], RETENTION.exhausted * 2)
  if from == 'waiting' then redis.call('ZREM', l[3], delivery) end
  if to == 'waiting' then
    redis.call('HSET', delivery, 'next', exact(due))
    redis.call('ZADD', l[3], exact(due), delivery)
    wake(line, due)
  else
    redis.call('HDEL', delivery, 'next')
  end
  if RETENTION[to] then
    redis.call('HSET', delivery, 'finished', exact(NOW))
    redis.call('PEXPIRE', delivery, RETENTION[to])
  end
end

-- A try is no longer under way, whatever became of it. True if it was until now.
local function drop_lease(delivery, number, line)
  local member = member_of(delivery, number)
  if redis.call('ZREM', LEASES.quick, member) + redis.call('ZREM', LEASES.slow, member) == 0 then return false end
  redis.call('HINCRBY', line, 'in_flight', -1)
  wake(line, NOW)
  return true
end

-- One line of the log of tries; the log keeps its newest 24 KB, whole lines.
local function log_try(delivery, text)
  local log = (redis.call('HGET', delivery, 'log') or '') .. text .. '\n'
  while #log > LOG_BYTES do log = string.sub(log, string.find(log, '\n', 1, true) + 1) end
  redis.call('HSET', delivery, 'log', log)
end

local function exhaust(delivery, line, from, why)
  redis.call('HSET', delivery, 'why', why)
  move(delivery, line, from, 'exhausted')
end

-- Whether the tenant's single jobs have to tell anybody of their end: kept beside what decides it.
local function listen(line, wanted)
  local l = redis.call('HMGET', line, 'listeners', 'tenant')
  redis.call(wanted and 'SADD' or 'SREM', l[1], line)
  redis.call('HSET', l[2], 'listening', redis.call('SCARD', l[1]) > 0 and '1' or '0')
end

-- An endpoint is told nothing more. What waits for it is exhausted by the plan, a piece at a time.
local function disable(line, why)
  redis.call('HSET', line, 'enabled', '0', 'disabled_why', why, 'disabled_at', exact(NOW))
  listen(line, false)
  wake(line, NOW)
end
