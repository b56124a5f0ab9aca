-- requires: base, scores, delivery_keys
-- reads read_turn: in_turn, kind, tenant
--
-- Receiver queues wait for their turns.

-- Looks at a queue at this moment, or earlier if that was planned.
local function wake(queue, at) redis.call('ZADD', QUEUES, 'LT', exact(at), queue) end

-- Puts a queue in line for a turn, once. Tenants take turns, and so do the queues of each: hundreds of silent receivers
-- of one tenant delay the queue of another tenant by one turn. A tenant that was idle starts at the present turn:
-- idleness earns no credit. Where no queue waits, the clock is the present turn: no tenant has had a turn each ms.
local function take_turn(queue)
  local q = read_turn(queue)
  if q.in_turn or not q.tenant then return end
  local kind = q.kind or 'new'
  local last = tonumber(redis.call('HGET', q.tenant, 'turn:' .. kind) or 0)
  local turn = exact(math.max(first_score(TURNS[kind]) or NOW, last + 1))
  redis.call('HSET', q.tenant, 'turn:' .. kind, turn)
  redis.call('HSET', queue, 'in_turn', kind)
  redis.call('ZADD', TURNS[kind], turn, queue)
end
