-- A worker takes up a try that the plan started, if it is still the delivery's and nobody did before.
--
-- KEYS[10] delivery
-- ARGV[5] number of the try   ARGV[6] a token of this claim, so that the same call sent again succeeds
-- Returns {} if the message is to be dropped, else {now in ms, fields of the delivery, flat, fields of its line, flat}.

local delivery, number, token = KEYS[10], ARGV[5], ARGV[6]
local r = redis.call('HMGET', delivery, 'state', 'number', 'claimed', 'holder', 'line')
if r[1] ~= 'sending' or r[2] ~= number or (r[3] and r[4] ~= token) then return {} end
local member, line = member_of(delivery, number), r[5]
local leases = lease_of(member)
if not leases then return {} end
local l = redis.call('HMGET', line, 'enabled', 'disabled_why')
if l[1] ~= '1' then
  drop_lease(delivery, number, line)
  exhaust(delivery, line, 'sending', 'its endpoint is disabled: ' .. (l[2] or ''))
  return {}
end
redis.call('ZADD', leases, exact(NOW + LEASE), member)
redis.call('HSET', delivery, 'claimed', exact(NOW), 'holder', token)
return {exact(NOW), redis.call('HGETALL', delivery), redis.call('HGETALL', line)}
