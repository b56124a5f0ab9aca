-- requires: base, common_keys
-- reads read_grace: seen, spared_until
--
-- While nobody can reach the store, no worker can renew its leases. After such a time all leases live one lease longer.

local SILENCE = LEASE / 3

-- True while no expired lease may be taken back. Every script that renews leases or takes them back calls this.
local function in_recovery_grace()
  local fleet = read_grace(FLEET)
  local until_ms = tonumber(fleet.spared_until or 0)
  if fleet.seen and NOW - tonumber(fleet.seen) > SILENCE then
    until_ms = NOW + LEASE
    redis.call('HSET', FLEET, 'spared_until', exact(until_ms))
  end
  redis.call('HSET', FLEET, 'seen', AT)
  return NOW < until_ms
end
