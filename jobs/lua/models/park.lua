-- requires: base, events
--
-- An operator parks a model. Running jobs continue; other jobs stay on their lanes.
--
-- KEYS[6] model
-- ARGV[4] the reason, a sentence
-- Returns 1 if this call changed it, 0 where an operator has parked it already.

local model, reason = KEYS[6], ARGV[4]
if redis.call('HGET', model, 'parked') == 'operator' then return 0 end
redis.call('HDEL', model, 'park_until', 'park_pause', 'probe')
redis.call('HSET', model, 'parked', 'operator', 'park_reason', reason, 'parked_at', AT)
emit('model.parked', '', model, cjson.encode({code = 'operator', reason = reason}))
return 1
