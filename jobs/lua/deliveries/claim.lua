-- requires: base, delivery_keys, delivery_state, delivery_lease
-- reads read_delivery: state, number, claimed, holder, line
-- reads read_queue: enabled, disabled_why
--
-- A worker claims a try that the plan started, if it is still the delivery's try and nobody has claimed it.
--
-- KEYS[10] delivery
-- ARGV[5] number of the try   ARGV[6] a token of this claim, so that the same call sent again succeeds
-- Returns {} if the message is to be dropped, else {now in ms, fields of the delivery, flat, fields of its receiver
-- queue, flat}.

local delivery, number, token = KEYS[10], ARGV[5], ARGV[6]
local r = read_delivery(delivery)
if r.state ~= 'sending' or r.number ~= number or (r.claimed and r.holder ~= token) then return {} end
local member, queue = member_of(delivery, number), r.line
local leases = leases_of(member)
if not leases then return {} end
local q = read_queue(queue)
if q.enabled ~= '1' then
  drop_lease(delivery, number, queue)
  exhaust(delivery, queue, 'sending', 'its endpoint is disabled: ' .. (q.disabled_why or ''))
  return {}
end
redis.call('ZADD', leases, exact(NOW + LEASE), member)
redis.call('HSET', delivery, 'claimed', AT, 'holder', token)
return {AT, redis.call('HGETALL', delivery), redis.call('HGETALL', queue)}
