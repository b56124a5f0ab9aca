-- The user wants deliveries tried now: ended ones begin their schedule anew, waiting ones are brought forward.
--
-- KEYS[10…] deliveries
-- ARGV[5] JSON: the states that may be; others are left as they are
-- Returns {how many were put forward, state of the first one before, '' where there is none,
--   '1' if the line of the first one is enabled}.

local wanted = {}
for _, state in ipairs(cjson.decode(ARGV[5])) do wanted[state] = true end

local count, first, open = 0, '', '0'
for i = 10, #KEYS do
  local delivery = KEYS[i]
  local r = redis.call('HMGET', delivery, 'state', 'line')
  local enabled = r[2] and redis.call('HGET', r[2], 'enabled') or '0'
  if i == 10 and r[1] then first, open = r[1], enabled end
  if r[1] and wanted[r[1]] and enabled == '1' then
    if r[1] == 'waiting' then
      redis.call('HSET', delivery, 'next', exact(NOW))
      redis.call('ZADD', redis.call('HGET', r[2], 'due'), exact(NOW), delivery)
      wake(r[2], NOW)
    else
      redis.call('PERSIST', delivery)
      redis.call('HDEL', delivery, 'tries', 'finished', 'why')
      move(delivery, r[2], r[1], 'waiting', NOW)
    end
    count = count + 1
  end
end
return {count, first, open}
