-- requires: nothing
--
-- Reading records by the names of their fields.

-- These fields of a hash as a table; false where the hash has no such field. For rare reads in scripts that run often:
-- a function that a header defines with `reads` is faster, but costs time at each call of its script.
local function read(key, fields)
  local values, record = redis.call('HMGET', key, unpack(fields)), {}
  for i, field in ipairs(fields) do record[field] = values[i] end
  return record
end

-- All fields of a hash as a table.
local function fields_of(key)
  local flat, record = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return record
end
