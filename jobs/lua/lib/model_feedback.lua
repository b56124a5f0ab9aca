-- requires: base, records, events, window, model_failure
-- reads read_model_success: fails, parked, probe, limit, concurrency, in_flight, pressed, pace
--
-- What the end of an attempt says about its model's endpoint: window, pace and park follow.
-- `call` is {model, totals, member, claimed}: keys, the lease's member, and when a worker claimed it (ms, or false).

local function raise_pace(model, pace)
  local held = read(model, {'pace_at', 'pace_hold', 'rpm'})
  if NOW - tonumber(held.pace_at) <= tonumber(held.pace_hold) then return end
  local ceiling = tonumber(held.rpm) > 0 and tonumber(held.rpm) or math.huge
  pace = pace * 1.02
  if pace >= ceiling then
    redis.call('HDEL', model, 'pace', 'pace_at', 'pace_hold')
  else
    redis.call('HSET', model, 'pace', exact(pace), 'pace_at', AT)
  end
end

-- Returns the model's probe as it was before.
local function on_success(call)
  local model = call.model
  local m = read_model_success(model)
  if m.fails and m.fails ~= '0' then redis.call('HSET', model, 'fails', 0) end
  -- Other calls than the probe were under way when the model was parked: they do not show that it is back.
  if m.parked and m.parked ~= 'operator' and m.probe == call.member then
    local reason = redis.call('HGET', model, 'park_reason')
    redis.call('HDEL', model, 'parked', 'park_reason', 'park_until', 'park_pause', 'parked_at')
    emit('model.resumed', '', model, cjson.encode({code = m.parked, reason = reason}))
  end
  local limit, concurrency = tonumber(m.limit), tonumber(m.concurrency)
  if limit < concurrency and tonumber(m.in_flight) >= math.floor(limit) then
    local step = m.pressed and 1 / limit or 1
    redis.call('HSET', model, 'limit', exact(math.min(concurrency, limit + step)))
  end
  if m.pace then raise_pace(model, tonumber(m.pace)) end
  return m.probe
end

-- Returns whether the attempt was the model's probe, which has had its answer.
local function apply_signal(call, signal)
  if signal == cjson.null then return forget_probe(call.model, call.member) end
  local probe
  if signal.kind == 'ok' then probe = on_success(call) else probe = on_failure(call, signal) end
  if probe ~= call.member then return false end
  redis.call('HDEL', call.model, 'probe')
  return true
end
