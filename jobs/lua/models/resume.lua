-- requires: events
-- reads read_park: parked, park_reason
--
-- An operator resumes a parked model, whatever it was parked for.
--
-- KEYS[6] model
-- Returns 1 if this call changed it, 0 where it is not parked.

local model = KEYS[6]
local park = read_park(model)
if not park.parked then return 0 end
redis.call('HDEL', model, 'parked', 'park_reason', 'park_until', 'park_pause', 'parked_at', 'probe')
redis.call('HSET', model, 'fails', 0)
emit('model.resumed', '', model, cjson.encode({code = park.parked, reason = park.park_reason}))
return 1
