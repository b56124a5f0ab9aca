-- requires: base, delivery_keys, receiver_queue, transitions
-- reads read_indexes: due, totals, i:waiting, i:sending, i:succeeded, i:exhausted
--
-- The one place where a delivery's state changes.

-- Changes a delivery's state: record, index, receiver queue. `due`, ms since 1970, is when a waiting one is tried.
local function move(delivery, queue, from, to, due)
  if not ALLOWED[from .. '>' .. to] then
    error(redis.error_reply('ILLEGAL transition ' .. from .. ' to ' .. to .. ' of ' .. delivery).err)
  end
  local q = read_indexes(queue)
  local before, after = q['i:' .. from], q['i:' .. to]
  redis.call('HSET', delivery, 'state', to)
  redis.call('HINCRBY', q.totals, 'n:' .. to, 1)
  if from ~= 'new' then redis.call('HINCRBY', q.totals, 'n:' .. from, -1) end
  if before then redis.call('ZREM', before, delivery) end
  redis.call('ZADD', after, 0, delivery)
  redis.call('PEXPIRE', after, QUEUE_KEPT)
  redis.call('PEXPIRE', queue, QUEUE_KEPT, 'GT')
  if from == 'waiting' then redis.call('ZREM', q.due, delivery) end
  if to == 'waiting' then
    redis.call('HSET', delivery, 'next', exact(due))
    redis.call('ZADD', q.due, exact(due), delivery)
    wake(queue, due)
  else
    redis.call('HDEL', delivery, 'next')
  end
  if RETENTION[to] then
    redis.call('HSET', delivery, 'finished', AT)
    redis.call('HINCRBY', q.totals, 'ended:' .. to, 1)
    redis.call('PEXPIRE', delivery, RETENTION[to])
  end
end

local function exhaust(delivery, queue, from, reason)
  redis.call('HSET', delivery, 'why', reason)
  move(delivery, queue, from, 'exhausted')
end
