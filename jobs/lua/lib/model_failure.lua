-- requires: base, records, events
--
-- What a failed attempt says about its model's endpoint. Helpers are inside the functions that use them, so that a
-- script that settles a success does not create them. `call` is as in lib/model_feedback.lua.

local function lower_pace(call, signal, m)
  -- Calls that were under way when the pace was lowered give no new information for so long.
  local RATE_SETTLES = 5000

  -- The starts of the last 60 seconds, estimated from the plan's counts of this minute and the one before.
  local function recent_starts(m)
    local minute = math.floor(NOW / 60000)
    local counted, starts, before = tonumber(m.minute or 0), tonumber(m.starts or 0), tonumber(m.starts_before or 0)
    if counted == minute then return starts + before * (1 - NOW % 60000 / 60000) end
    if counted == minute - 1 then return starts * (1 - NOW % 60000 / 60000) end
    return 0
  end

  local rest = signal.retry_after_ms or 1000
  -- The burst that the pace allows does not shorten the rest.
  redis.call('HSET', call.model, 'tat', exact(math.max(tonumber(m.tat or 0), NOW + rest)),
    'rests_until', exact(math.max(tonumber(m.rests_until or 0), NOW + rest)))
  if m.pace_at and NOW - tonumber(m.pace_at) < RATE_SETTLES then return end
  local pace, hold
  if signal.limit and signal.limit >= 1 then
    pace, hold = signal.limit * 0.985, 600000
  else
    local known = tonumber(m.pace or m.rpm)
    local measured = math.max(1, recent_starts(m))
    pace, hold = math.max(1, (known > 0 and math.min(known, measured) or measured) * 0.9), 20000
  end
  redis.call('HSET', call.model, 'pace', exact(pace), 'pace_at', AT, 'pace_hold', hold)
end

-- Lowers the window or the pace, or parks the model. Returns the model's probe as it was before.
local function on_failure(call, signal)
  -- How long a park lasts before the next probe: doubled each time that the probe fails.
  local FIRST_PAUSE, MAX_PAUSE = 5000, 600000
  -- So many failures in a row without a success are the endpoint's fault.
  local FAILURE_RUN = 12
  local function park(call, signal, m)
    local pause = tonumber(m.park_pause or 0)
    pause = pause == 0 and FIRST_PAUSE or math.min(pause * 2, MAX_PAUSE)
    if signal.retry_after_ms and signal.retry_after_ms > pause then pause = signal.retry_after_ms end
    redis.call('HSET', call.model, 'parked', signal.code, 'park_reason', signal.reason,
      'park_until', exact(NOW + pause), 'park_pause', exact(pause))
    if not m.parked then
      redis.call('HSET', call.model, 'parked_at', AT)
      redis.call('HINCRBY', call.totals, 'parks', 1)
      emit('model.parked', '', call.model, cjson.encode({code = signal.code, reason = signal.reason}))
    end
  end

  local function lower_limit(call, signal, m)
    if m.pressed and tonumber(call.claimed or NOW) <= tonumber(m.pressed) then return end
    local limit = math.max(1, math.min(tonumber(m.limit), tonumber(m.in_flight)) * 2 / 3)
    if signal.limit and signal.limit >= 1 then limit = math.min(tonumber(m.limit), signal.limit) end
    redis.call('HSET', call.model, 'limit', exact(limit), 'pressed', AT)
  end

  local m = read(call.model, {'fails', 'parked', 'park_pause', 'probe', 'limit', 'in_flight', 'pressed', 'pace',
    'pace_at', 'rpm', 'tat', 'minute', 'starts', 'starts_before', 'rests_until'})
  if signal.kind == 'rate' then
    lower_pace(call, signal, m)
  elseif signal.kind == 'concurrency' then
    lower_limit(call, signal, m)
  elseif signal.kind == 'park' then
    -- Calls that were under way when the model was parked do not prolong the park; the probe does.
    if not m.parked or m.probe == call.member then park(call, signal, m) end
  elseif signal.kind == 'trouble' then
    local fails = redis.call('HINCRBY', call.model, 'fails', 1)
    if m.probe == call.member or (not m.parked and fails >= FAILURE_RUN) then
      park(call, {code = 'failing', retry_after_ms = signal.retry_after_ms,
        reason = fails .. ' calls in a row failed, the last one so: ' .. signal.reason}, m)
    end
  end
  return m.probe
end
