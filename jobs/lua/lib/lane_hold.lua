-- requires: base, lanes
--
-- A held lane is outside its share, so the plan does not see it.

local function hold(lane)
  local lanes = redis.call('HGET', redis.call('HGET', lane, 'share'), 'lanes')
  local tag = redis.call('ZSCORE', lanes, lane)
  redis.call('HSET', lane, 'held', '1')
  if tag then
    redis.call('HSET', lane, 'tag', tag)
    redis.call('ZREM', lanes, lane)
  end
end

local function hold_batch(batch)
  for _, lane in ipairs(redis.call('SMEMBERS', redis.call('HGET', batch, 'lanes'))) do hold(lane) end
end

local function release(lane)
  redis.call('HDEL', lane, 'held')
  redis.call('HSET', lane, 'since', AT)
  if redis.call('LLEN', redis.call('HGET', lane, 'list')) > 0 then activate(lane) end
end
