-- What may be told now, is: lost tries are taken back, lines with something due line up, and while there are threads,
-- tenants take turns and so do the lines of each, a delivery a turn, as far as their window, rate and breaker allow.
-- Slow or failing receivers have a quarter of the threads between them, and those that are not known yet another one,
-- a thread each: whoever answers well and soon waits for neither.
-- Any number of callers may run this at once: there is no leader.
--
-- ARGV[5] most deliveries to start in this call
-- Returns {ms until there may be more to do (-1: not by the clock alone), delivery key, number, delivery key, …}.

local MOST_HOUSEKEEPING = 200
local most = tonumber(ARGV[5])

redis.call('ZREMRANGEBYSCORE', TELLERS, '-inf', exact(NOW))
local threads = 0
for _, teller in ipairs(redis.call('ZRANGE', TELLERS, 0, -1)) do
  local _, number = parts_of(teller)
  threads = threads + tonumber(number)
end

local lost = 0
for _, leases in pairs(LEASES) do
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', exact(NOW), 'LIMIT', 0, MOST_HOUSEKEEPING)) do
    lost = lost + 1
    local delivery, number = parts_of(member)
    local r = redis.call('HMGET', delivery, 'line', 'state', 'number', 'claimed')
    if not r[1] then
      redis.call('ZREM', leases, member)
    else
      drop_lease(delivery, number, r[1])
      if r[2] == 'sending' and r[3] == number then
        redis.call('HINCRBY', redis.call('HGET', r[1], 'totals'), 'tries:lost', 1)
        if r[4] then
          local try = {number = tonumber(number), at_ms = tonumber(r[4]), error = 'the worker was lost'}
          log_try(delivery, cjson.encode(try))
        end
        redis.call('HDEL', delivery, 'claimed', 'holder')
        move(delivery, r[1], 'sending', 'waiting', NOW)
      end
    end
  end
end

local due = redis.call('ZRANGEBYSCORE', LINES, '-inf', exact(NOW), 'LIMIT', 0, MOST_HOUSEKEEPING)
for _, line in ipairs(due) do
  redis.call('ZREM', LINES, line)
  line_up(line)
end

-- What waits for an endpoint that is disabled or deleted ends, visibly.
local function clear(line, why)
  local l = redis.call('HMGET', line, 'due', 'deleted')
  local waiting = redis.call('ZRANGE', l[1], 0, MOST_HOUSEKEEPING - 1)
  for _, delivery in ipairs(waiting) do exhaust(delivery, line, 'waiting', why) end
  if #waiting == MOST_HOUSEKEEPING then
    wake(line, NOW)
  elseif l[2] == '1' then
    redis.call('PEXPIRE', line, LINE_KEPT)
  end
end

-- The next delivery of a line, or nil; what could let the line go on will wake it.
local function start(line, kind)
  local l = redis.call('HMGET', line, 'due', 'enabled', 'disabled_why', 'in_flight', 'window', 'fails', 'open_until',
    'rate', 'tat')
  if not l[1] then return nil end
  if l[2] ~= '1' then return clear(line, 'its endpoint is disabled: ' .. (l[3] or '')) end
  local in_flight, open_until = tonumber(l[4] or 0), tonumber(l[7] or 0)
  local window = kind == 'new' and 1 or tonumber(l[5] or FIRST_WINDOW)
  if in_flight >= math.min(window, math.max(1, math.floor(threads / 2))) then return nil end
  if tonumber(l[6] or 0) >= BREAKS_AT and in_flight > 0 then return nil end
  if NOW < open_until then return wake(line, open_until) end
  local rate, tat = tonumber(l[8] or 0), tonumber(l[9] or 0)
  if rate > 0 and NOW < tat then return wake(line, tat) end
  local top = redis.call('ZRANGE', l[1], 0, 0, 'WITHSCORES')
  local delivery = top[1]
  if not delivery then return nil end
  if tonumber(top[2]) > NOW then return wake(line, tonumber(top[2])) end
  if redis.call('EXISTS', delivery) == 0 then
    redis.call('ZREM', l[1], delivery)
    return wake(line, NOW)
  end
  local number = redis.call('HINCRBY', delivery, 'number', 1)
  redis.call('HDEL', delivery, 'claimed', 'holder')
  move(delivery, line, 'waiting', 'sending')
  redis.call('ZADD', LEASES[kind], exact(NOW + LEASE), member_of(delivery, number))
  redis.call('HINCRBY', line, 'in_flight', 1)
  if rate > 0 then redis.call('HSET', line, 'tat', exact(math.max(tat, NOW) + 1000 / rate)) end
  line_up(line)
  return delivery, number
end

-- Quick ones wait in the broker's queue for the next free thread; others only go where a thread may be held for long.
local quarter = math.min(threads, math.max(1, math.floor(threads / 4)))
local room = {quick = threads * 2, new = quarter, slow = quarter}
local answer = {-1}
for _, kind in ipairs(KINDS) do
  room[kind] = room[kind] - redis.call('ZCARD', LEASES[kind])
  while room[kind] > 0 and #answer <= most * 2 do
    local line = redis.call('ZPOPMIN', TURNS[kind])[1]
    if not line then break end
    redis.call('HDEL', line, 'in_turn')
    local delivery, number = start(line, kind)
    if delivery then
      room[kind] = room[kind] - 1
      answer[#answer + 1] = delivery
      answer[#answer + 1] = tostring(number)
    end
  end
end

local next_due = first_score(LINES)
if next_due then answer[1] = math.max(0, math.ceil(next_due - NOW)) end
if #answer > most * 2 or lost >= MOST_HOUSEKEEPING then answer[1] = 0 end
return answer
