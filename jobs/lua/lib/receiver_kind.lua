-- requires: delivery_keys, receiver_queue
-- reads read_kind: in_turn, kind
--
-- A receiver is quick, slow or new (unknown). The kind decides which receivers it shares threads with.

local function set_kind(queue, kind)
  local q = read_kind(queue)
  if q.kind == kind then return end
  redis.call('HSET', queue, 'kind', kind)
  if q.in_turn then
    redis.call('ZREM', TURNS[q.in_turn], queue)
    redis.call('HDEL', queue, 'in_turn')
    take_turn(queue)
  end
end
