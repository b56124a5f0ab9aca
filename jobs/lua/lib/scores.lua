-- requires: nothing
--
-- Scores of sorted sets.

-- The lowest score of a sorted set, or nil where it is empty.
local function first_score(zset)
  return tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2])
end
