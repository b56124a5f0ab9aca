-- requires: base, delivery_keys, receiver_queue
--
-- The leases of tries under way.

-- The sorted set that has this try's lease, or nil.
local function leases_of(member)
  for _, kind in ipairs(KINDS) do
    if redis.call('ZSCORE', LEASES[kind], member) then return LEASES[kind] end
  end
end

-- Ends the lease of a try, whatever its result. Returns whether it had one.
local function drop_lease(delivery, number, queue)
  local member = member_of(delivery, number)
  local leases = leases_of(member)
  if not leases then return false end
  redis.call('ZREM', leases, member)
  redis.call('HINCRBY', queue, 'in_flight', -1)
  wake(queue, NOW)
  return true
end
