-- requires: nothing
--
-- Commands with many values.

-- Sends a command with as many values at a time as Lua can unpack.
local function in_chunks(command, key, values)
  for first = 1, #values, 1000 do
    redis.call(command, key, unpack(values, first, math.min(first + 999, #values)))
  end
end
