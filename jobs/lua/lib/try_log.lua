-- requires: nothing
--
-- The log of a delivery's tries: lines of JSON.

-- Thirty tries with an error of a kilobyte each, and the longest answer of the newest one.
local MAX_LOG_BYTES = 40960

-- Adds a line. Where the log grows too long, the oldest answers are removed first, then whole lines.
local function log_try(delivery, text)
  local log = (redis.call('HGET', delivery, 'log') or '') .. text .. '\n'
  if #log > MAX_LOG_BYTES then
    local size, lines = #log, {}
    for line in string.gmatch(log, '[^\n]+') do
      local entry = size > MAX_LOG_BYTES and cjson.decode(line) or {}
      if entry.answer then
        entry.answer = nil
        local short = cjson.encode(entry)
        size, line = size - #line + #short, short
      end
      lines[#lines + 1] = line
    end
    log = table.concat(lines, '\n') .. '\n'
  end
  while #log > MAX_LOG_BYTES do log = string.sub(log, string.find(log, '\n', 1, true) + 1) end
  redis.call('HSET', delivery, 'log', log)
end
