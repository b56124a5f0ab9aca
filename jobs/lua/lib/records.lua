-- requires: nothing
--
-- Whole records: reading all fields, writing many.

-- All fields of a hash as a table.
local function fields_of(key)
  local flat, record = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return record
end

-- Writes {field: value} into a hash.
local function write_fields(key, fields)
  for field, value in pairs(fields) do redis.call('HSET', key, field, value) end
end
