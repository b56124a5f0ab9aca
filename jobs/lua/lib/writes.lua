-- requires: nothing
--
-- Writing records from tables.

-- Writes {field: value} into a hash.
local function write_fields(key, fields)
  for field, value in pairs(fields) do redis.call('HSET', key, field, value) end
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
