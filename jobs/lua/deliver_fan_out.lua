-- An event becomes deliveries, all of them, and leaves the outbox; a second call for the same entry does nothing.
--
-- KEYS[10…] pairs: delivery key, key of its line
-- ARGV[5] id of the stream's entry   ARGV[6] consumer group
-- ARGV[7] JSON: {event: {field: text} of every delivery,
--   lines: [{field: text}] to write where there is no such line, or false; deliveries: [{field: text}],
--   digests: [false, or {due, key, list, item, every_ms, fields: {field: text}}] instead of a delivery: what is
--   collected,
--   old: {succeeded: key, exhausted: key}: what sorts before these has expired}
-- Returns the number of deliveries written or items collected; -1 where the entry was not there any more.

local entry, order = ARGV[5], cjson.decode(ARGV[7])
if redis.call('XACK', OUTBOX, ARGV[6], entry) == 0 then return -1 end
redis.call('XDEL', OUTBOX, entry)

local written = 0
for i = 10, #KEYS, 2 do
  local delivery, line, n = KEYS[i], KEYS[i + 1], (i - 8) / 2
  local card = order.lines[n]
  if card then
    for field, value in pairs(card) do redis.call('HSETNX', line, field, value) end
    redis.call('PEXPIRE', line, LINE_KEPT)
    redis.call('ZADD', card.known, exact(NOW), line)
    redis.call('ZREMRANGEBYSCORE', card.known, '-inf', exact(NOW - LINE_KEPT))
    redis.call('PEXPIRE', card.known, LINE_KEPT)
  end
  local digest, enabled = order.digests[n], redis.call('HGET', line, 'enabled') == '1'
  if digest and enabled then
    redis.call('RPUSH', digest.list, digest.item)
    for field, value in pairs(digest.fields) do redis.call('HSETNX', digest.key, field, value) end
    -- It was to expire if nothing more came.
    redis.call('PERSIST', digest.key)
    redis.call('ZADD', digest.due, 'NX', exact(NOW + digest.every_ms), digest.key)
    written = written + 1
  elseif enabled and write(delivery, line, order.event, order.deliveries[n]) then
    for state, key in pairs(order.old) do
      redis.call('ZREMRANGEBYLEX', redis.call('HGET', line, 'i:' .. state), '-', '(' .. key)
    end
    written = written + 1
  end
end
return written
