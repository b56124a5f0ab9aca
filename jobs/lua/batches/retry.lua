-- requires: base, batch_reopen
-- reads read_batch: state, sweep, chores
--
-- The user retries a batch's jobs of some states. The batch continues at once, its jobs follow in the background.
--
-- KEYS[6] batch
-- ARGV[4] the states, JSON
-- Returns {its state now, '1' if this call changed it, 'busy' where an earlier sweep has not ended, 'none' where no job
-- is in these states}

local batch, states = KEYS[6], cjson.decode(ARGV[4])
local b = read_batch(batch)
if b.state == 'failed' or not b.state then return {b.state or '', '0'} end
if b.sweep then return {b.state, 'busy'} end
local number = 0
for _, state in ipairs(states) do number = number + tonumber(redis.call('HGET', batch, state) or 0) end
if number == 0 then return {b.state, 'none'} end
reopen(batch)
redis.call('HSET', batch, 'sweep', cjson.encode({kind = 'retry', states = states, before = NOW}))
redis.call('HDEL', batch, 'cursor')
redis.call('ZREM', b.chores, 'results ' .. batch)
redis.call('ZADD', b.chores, AT, 'sweep ' .. batch)
return {redis.call('HGET', batch, 'state'), '1'}
