-- What scripts on deliveries use: each gets the blocks, between blank lines, that it names (scripts.py). The table
-- ALLOWED comes from delivery_records.TRANSITIONS.
--
--   KEYS[1] outbox       STREAM
--   KEYS[2] lines        ZSET  line key -> when to look at it again, ms
--   KEYS[3] KEYS[4] KEYS[5] ZSETs  line with something due -> its turn: of quick receivers, of new ones, of slow ones
--   KEYS[6] KEYS[7] KEYS[8] ZSETs  delivery key#number -> end of the lease, ms: the same, tries under way
--   KEYS[9] tellers ZSET  name#threads of each live webhook worker -> when it counts as gone, ms
--   ARGV[1] now, ms since 1970; 0 takes the server's clock (the only clock of the fleet; tests give their own)
--   ARGV[2] length of a lease, ms
--   ARGV[3] retention of a delivery that succeeded, ms   ARGV[4] of one that was exhausted, ms
-- A line is an endpoint's record, or that of the addresses of one origin that jobs and batches name. It names the keys
-- it belongs with (due, tenant, listeners, totals, breakers, i:STATE), and a delivery names its line, so no key is put
-- together here.

local OUTBOX, LINES = KEYS[1], KEYS[2]
local KINDS = {'quick', 'new', 'slow'}
local TURNS = {quick = KEYS[3], new = KEYS[4], slow = KEYS[5]}
local LEASES = {quick = KEYS[6], new = KEYS[7], slow = KEYS[8]}
local TELLERS = KEYS[9]

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
-- So many failures in a row open the breaker: one try at a time, and about a tenth of one thread's time. Failures that
-- come at once hold no thread, and so cost nobody anything.
local BREAKS_AT, PAUSE_FACTOR, FREE_MS = 5, 10, 100
-- A receiver whose answers take longer on average is a slow one; so is one that fails after so long.
local QUICK_MS = 1000
-- Nothing but failures for so long disables an endpoint.
local PATIENCE = 5 * 86400000
-- Thirty tries with an error of a kilobyte each, and the longest answer of the newest one.
local LOG_BYTES = 40960

-- A line outlives what waits in it: ten tries, none more than 29 hours after the one before (delivery_schedule.py), and
-- then its deliveries are kept. Each move begins this anew, for waiting for a receiver to recover uses up no try.
local LINE_KEPT = RETENTION.exhausted * 2 + 12 * 86400000

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

-- A line waits for its turn, once. Tenants take turns, and so do the lines of each: hundreds of silent receivers of one
-- tenant come before a line of another one only once. A tenant that comes back starts at the present turn, for idleness
-- earns no credit. Where no line waits the clock is the present: no tenant has had a turn for each millisecond.
local function line_up(line)
  local l = redis.call('HMGET', line, 'in_turn', 'kind', 'tenant')
  if l[1] or not l[3] then return end
  local kind = l[2] or 'new'
  local last = tonumber(redis.call('HGET', l[3], 'turn:' .. kind) or 0)
  local turn = exact(math.max(first_score(TURNS[kind]) or NOW, last + 1))
  redis.call('HSET', l[3], 'turn:' .. kind, turn)
  redis.call('HSET', line, 'in_turn', kind)
  redis.call('ZADD', TURNS[kind], turn, line)
end

-- What is known of a line's receiver decides whom it shares threads with.
local function become(line, kind)
  local l = redis.call('HMGET', line, 'in_turn', 'kind')
  if l[2] == kind then return end
  redis.call('HSET', line, 'kind', kind)
  if l[1] then
    redis.call('ZREM', TURNS[l[1]], line)
    redis.call('HDEL', line, 'in_turn')
    line_up(line)
  end
end

local function lease_of(member)
  for _, kind in ipairs(KINDS) do
    if redis.call('ZSCORE', LEASES[kind], member) then return LEASES[kind] end
  end
end

-- The one place where a delivery's state changes: record, index, line.
local function move(delivery, line, from, to, due)
  if not ALLOWED[from .. '>' .. to] then
    error(redis.error_reply('ILLEGAL transition ' .. from .. ' to ' .. to .. ' of ' .. delivery).err)
  end
  local l = redis.call('HMGET', line, 'i:' .. from, 'i:' .. to, 'due', 'totals')
  redis.call('HSET', delivery, 'state', to)
  redis.call('HINCRBY', l[4], 'n:' .. to, 1)
  if from ~= 'new' then redis.call('HINCRBY', l[4], 'n:' .. from, -1) end
  if l[1] then redis.call('ZREM', l[1], delivery) end
  redis.call('ZADD', l[2], 0, delivery)
  redis.call('PEXPIRE', l[2], LINE_KEPT)
  redis.call('PEXPIRE', line, LINE_KEPT, 'GT')
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
    redis.call('HINCRBY', l[4], 'ended:' .. to, 1)
    redis.call('PEXPIRE', delivery, RETENTION[to])
  end
end

-- A try is no longer under way, whatever became of it. True if it was until now.
local function drop_lease(delivery, number, line)
  local member = member_of(delivery, number)
  local leases = lease_of(member)
  if not leases then return false end
  redis.call('ZREM', leases, member)
  redis.call('HINCRBY', line, 'in_flight', -1)
  wake(line, NOW)
  return true
end

-- One line of the log of tries. Where it grows too long the oldest answers go, and whole tries only once all have gone.
local function log_try(delivery, text)
  local log = (redis.call('HGET', delivery, 'log') or '') .. text .. '\n'
  if #log > LOG_BYTES then
    local size, kept = #log, {}
    for line in string.gmatch(log, '[^\n]+') do
      local entry = size > LOG_BYTES and cjson.decode(line) or {}
      if entry.answer then
        entry.answer = nil
        local short = cjson.encode(entry)
        size, line = size - #line + #short, short
      end
      kept[#kept + 1] = line
    end
    log = table.concat(kept, '\n') .. '\n'
  end
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

-- A new delivery of a line; that of a disabled endpoint is exhausted by the plan. False where it is there already, or
-- where there is no such line.
local function write(delivery, line, ...)
  local owner = redis.call('HGET', line, 'owner')
  if not owner or redis.call('EXISTS', delivery) == 1 then return false end
  for _, fields in ipairs({...}) do
    for field, value in pairs(fields) do redis.call('HSET', delivery, field, value) end
  end
  redis.call('HSET', delivery, 'line', line, 'owner', owner)
  move(delivery, line, 'new', 'waiting', NOW)
  return true
end

-- An endpoint is told nothing more. What waits for it is exhausted by the plan, a piece at a time.
local function disable(line, why)
  redis.call('HSET', line, 'enabled', '0', 'disabled_why', why, 'disabled_at', exact(NOW))
  redis.call('ZREM', redis.call('HGET', line, 'breakers'), line)
  listen(line, false)
  wake(line, NOW)
end
