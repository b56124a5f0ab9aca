-- requires: nothing
--
-- Commands with many values, and records that are written once.

-- Sends a command with as many values at a time as Lua can unpack.
local function in_chunks(command, key, values)
  for first = 1, #values, 1000 do
    redis.call(command, key, unpack(values, first, math.min(first + 999, #values)))
  end
end

-- Writes a record with these fields unless it exists.
local function write_if_missing(key, fields)
  if redis.call('EXISTS', key) == 1 then return end
  local flat = {}
  for field, value in pairs(fields) do
    flat[#flat + 1] = field
    flat[#flat + 1] = value
  end
  redis.call('HSET', key, unpack(flat))
end
