-- requires: records, lanes, billing
-- reads read_stall: stalled, max_in_flight
--
-- Attempts leave their model's window.

-- A tenant is below its limit of jobs in flight again: its stalled shares return to their rings.
local function unstall(tenant, in_flight)
  local limit = read_stall(tenant)
  if not limit.stalled or limit.max_in_flight and in_flight >= tonumber(limit.max_in_flight)
    or redis.call('SCARD', limit.stalled) == 0 then return end
  for _, share in ipairs(redis.call('SMEMBERS', limit.stalled)) do
    redis.call('HDEL', share, 'stalled')
    local place = read(share, {'lanes', 'ring', 'tag', 'model'})
    if redis.call('ZCARD', place.lanes) > 0 then enter_ring(share, place.ring, place.tag, place.model) end
  end
  redis.call('DEL', limit.stalled)
end

-- An attempt without a lease no longer occupies its model's window, whatever state its job is in.
local function leave_window(job, attempt, lane)
  local record = lane_record(lane)
  redis.call('HINCRBY', record.model, 'in_flight', -1)
  if record.batch ~= '' then unreserve(job, attempt, record.batch) end
  unstall(record.tenant, redis.call('HINCRBY', record.tenant, 'in_flight', -1))
end

-- Removes a parked model's probe if this attempt is it. Returns whether it was.
local function forget_probe(model, member)
  if redis.call('HGET', model, 'probe') ~= member then return false end
  redis.call('HDEL', model, 'probe')
  return true
end
