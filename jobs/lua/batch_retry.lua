-- The user wants a batch's jobs of some states tried again. The batch goes on at once, its jobs follow in the
-- background.
--
-- KEYS[6] batch
-- ARGV[4] the states, JSON
-- Returns {state it is in now, '1' if this call changed it, 'busy' where an earlier sweep is not done, 'none' where no
-- job is in these states}

local batch, states = KEYS[6], cjson.decode(ARGV[4])
local b = redis.call('HMGET', batch, 'state', 'sweep', 'chores')
if b[1] == 'failed' or not b[1] then return {b[1] or '', '0'} end
if b[2] then return {b[1], 'busy'} end
local found = 0
for _, state in ipairs(states) do found = found + tonumber(redis.call('HGET', batch, state) or 0) end
if found == 0 then return {b[1], 'none'} end
reopen(batch)
redis.call('HSET', batch, 'sweep', cjson.encode({kind = 'retry', states = states, before = NOW}))
redis.call('HDEL', batch, 'cursor')
redis.call('ZREM', b[3], 'results ' .. batch)
redis.call('ZADD', b[3], AT, 'sweep ' .. batch)
return {redis.call('HGET', batch, 'state'), '1'}
