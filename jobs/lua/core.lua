-- What scripts on jobs use; each gets the blocks, between blank lines, that it names (scripts.py).
--
-- The spine, the same in every script that changes a job:
--   KEYS[1] leases     ZSET  job key#attempt -> end of the lease, ms
--   KEYS[2] waiting    ZSET  job key -> due, ms
--   KEYS[3] deadlines  ZSET  job key -> deadline, ms
--   KEYS[4] outbox     STREAM
--   KEYS[5] fleet      HASH
--   ARGV[1] now, ms since 1970; 0 takes the server's clock (the only clock of the fleet; tests give their own)
--   ARGV[2] retention of a finished job's record, ms
--   ARGV[3] length of a lease, ms
-- Records name the keys they belong with (job.lane; lane.list, .share, .model, .totals, .tenant, .batch, .i:STATE;
-- share.lanes, .ring; batch.lanes, .chores), so no key is ever put together here.

local LEASES, WAITING, DEADLINES, OUTBOX, FLEET = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local function clock()
  if ARGV[1] ~= '0' then return tonumber(ARGV[1]) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local NOW = clock()
local RETENTION = tonumber(ARGV[2])
local LEASE = tonumber(ARGV[3])
local SILENCE = LEASE / 3

local function exact(number) return string.format('%.17g', number) end

-- The moment as it is written, which most scripts do several times.
local AT = exact(NOW)

local function member_of(job, attempt) return job .. '#' .. attempt end

local function parts_of(member)
  local at = string.find(member, '#', 1, true)
  return string.sub(member, 1, at - 1), string.sub(member, at + 1)
end

-- Field-value list of HGETALL as a table.
local function fields_of(key)
  local flat, record = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return record
end

-- Where nobody reached the store for a while, leases ended unheard: their holders get one lease's time to be heard.
-- Called by all that keeps leases alive or takes them back. True while nothing may be taken back.
local function spared_now()
  local f = redis.call('HMGET', FLEET, 'seen', 'spared_until')
  local until_ms = tonumber(f[2] or 0)
  if f[1] and NOW - tonumber(f[1]) > SILENCE then
    until_ms = NOW + LEASE
    redis.call('HSET', FLEET, 'spared_until', exact(until_ms))
  end
  redis.call('HSET', FLEET, 'seen', AT)
  return NOW < until_ms
end
