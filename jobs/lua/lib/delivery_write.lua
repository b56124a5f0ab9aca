-- requires: base, writes, delivery_state
--
-- New deliveries.

-- Writes a new delivery from tables {field: value}. The plan exhausts it where its endpoint is disabled.
-- Returns false where it exists already, or its receiver queue does not.
local function write_delivery(delivery, queue, ...)
  local owner = redis.call('HGET', queue, 'owner')
  if not owner or redis.call('EXISTS', delivery) == 1 then return false end
  for _, fields in ipairs({...}) do write_fields(delivery, fields) end
  redis.call('HSET', delivery, 'line', queue, 'owner', owner)
  move(delivery, queue, 'new', 'waiting', NOW)
  return true
end
