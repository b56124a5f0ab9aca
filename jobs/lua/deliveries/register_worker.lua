-- requires: base, members, delivery_keys
--
-- A webhook worker registers its threads; with 0 threads it is removed.
--
-- ARGV[5] its name   ARGV[6] its threads   ARGV[7] how long the registration counts, ms

local name, threads, lives_ms = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
for _, worker in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
  if parts_of(worker) == name then redis.call('ZREM', WORKERS, worker) end
end
if threads > 0 then redis.call('ZADD', WORKERS, exact(NOW + lives_ms), member_of(name, threads)) end
return 1
