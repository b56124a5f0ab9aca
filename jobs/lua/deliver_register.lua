-- A webhook worker says how many threads it has; none takes it off the list.
--
-- ARGV[5] its name   ARGV[6] its threads   ARGV[7] how long it counts, ms

for _, teller in ipairs(redis.call('ZRANGE', TELLERS, 0, -1)) do
  local name = parts_of(teller)
  if name == ARGV[5] then redis.call('ZREM', TELLERS, teller) end
end
if tonumber(ARGV[6]) > 0 then
  redis.call('ZADD', TELLERS, exact(NOW + tonumber(ARGV[7])), ARGV[5] .. '#' .. ARGV[6])
end
return 1
