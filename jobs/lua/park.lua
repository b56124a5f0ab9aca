-- An operator sets a model aside, or takes it up again. What runs goes on; jobs stay on their lanes.
--
-- KEYS[6] model
-- ARGV[4] 'park' | 'resume'   ARGV[5] why, in words
-- Returns 1 if this call changed it.

local model, act, reason = KEYS[6], ARGV[4], ARGV[5]
local m = redis.call('HMGET', model, 'parked', 'park_reason')
if act == 'park' then
  if m[1] == 'operator' then return 0 end
  redis.call('HDEL', model, 'park_until', 'park_pause', 'probe')
  redis.call('HSET', model, 'parked', 'operator', 'park_reason', reason, 'parked_at', AT)
  emit('model.parked', '', model, cjson.encode({code = 'operator', reason = reason}))
  return 1
end
if not m[1] then return 0 end
redis.call('HDEL', model, 'parked', 'park_reason', 'park_until', 'park_pause', 'parked_at', 'probe')
redis.call('HSET', model, 'fails', 0)
emit('model.resumed', '', model, cjson.encode({code = m[1], reason = m[2]}))
return 1
