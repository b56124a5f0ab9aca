-- requires: base, delivery_keys, delivery_write
--
-- Turns an event into deliveries, all of them, and removes it from the outbox; a second call for the same entry does
-- nothing.
--
-- KEYS[10…] pairs: delivery key, key of its receiver queue
-- ARGV[5] id of the stream's entry   ARGV[6] consumer group
-- ARGV[7] JSON: {event: {field: text} of every delivery,
--   lines: [{field: text}] to write where the receiver queue does not exist, or false; deliveries: [{field: text}],
--   digests: [false, or {due, key, list, item, every_ms, fields: {field: text}}]: collected instead of delivered,
--   old: {succeeded: key, exhausted: key}: deliveries whose keys sort before these have expired}
-- Returns the number of deliveries written or items collected; -1 where the entry was handled before.

local entry, group, command = ARGV[5], ARGV[6], cjson.decode(ARGV[7])
local FIRST_PAIR = 10
if redis.call('XACK', OUTBOX, group, entry) == 0 then return -1 end
redis.call('XDEL', OUTBOX, entry)

local function keep_queue(queue, fields)
  for field, value in pairs(fields) do redis.call('HSETNX', queue, field, value) end
  redis.call('PEXPIRE', queue, QUEUE_KEPT)
  redis.call('ZADD', fields.known, AT, queue)
  redis.call('ZREMRANGEBYSCORE', fields.known, '-inf', exact(NOW - QUEUE_KEPT))
  redis.call('PEXPIRE', fields.known, QUEUE_KEPT)
end

local function collect(digest)
  redis.call('RPUSH', digest.list, digest.item)
  for field, value in pairs(digest.fields) do redis.call('HSETNX', digest.key, field, value) end
  -- An empty digest expires; this one is not empty.
  redis.call('PERSIST', digest.key)
  redis.call('ZADD', digest.due, 'NX', exact(NOW + digest.every_ms), digest.key)
end

local written = 0
for i = FIRST_PAIR, #KEYS, 2 do
  local delivery, queue, n = KEYS[i], KEYS[i + 1], (i - FIRST_PAIR) / 2 + 1
  if command.lines[n] then keep_queue(queue, command.lines[n]) end
  local digest, enabled = command.digests[n], redis.call('HGET', queue, 'enabled') == '1'
  if digest and enabled then
    collect(digest)
    written = written + 1
  elseif enabled and write_delivery(delivery, queue, command.event, command.deliveries[n]) then
    for state, key in pairs(command.old) do
      redis.call('ZREMRANGEBYLEX', redis.call('HGET', queue, 'i:' .. state), '-', '(' .. key)
    end
    written = written + 1
  end
end
return written
