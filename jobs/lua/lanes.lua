-- Which lanes the plan may take from, and how long their next jobs have been queued. It changes nothing.
--
-- KEYS[6…] one model record a model
-- ARGV[4] most lanes of a model to look into
-- Returns now in ms, and then a list a model: {lanes, weight, moment, weight, moment, …}, the moment in ms since when the lane's next job has
-- been queued and free to be taken.

local ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

-- The moment in the ULID of a job's id, ms: its first ten characters, five bits each.
local function made(job)
  local text = string.match(job, 'job_(%w%w%w%w%w%w%w%w%w%w)')
  local ms = 0
  for i = 1, #text do ms = ms * 32 + string.find(ALPHABET, string.sub(text, i, i), 1, true) - 1 end
  return ms
end

local most, answer = tonumber(ARGV[4]), {AT}
for i = 6, #KEYS do
  local ring = redis.call('HGET', KEYS[i], 'ring')
  local found, looked = {0}, 0
  for _, share in ipairs(ring and redis.call('ZRANGE', ring, 0, -1) or {}) do
    local lanes = redis.call('HGET', share, 'lanes')
    found[1] = found[1] + redis.call('ZCARD', lanes)
    for _, lane in ipairs(looked < most and redis.call('ZRANGE', lanes, 0, most - looked - 1) or {}) do
      looked = looked + 1
      local l = redis.call('HMGET', lane, 'list', 'weight', 'since')
      local job = redis.call('LINDEX', l[1], 0)
      local r = job and redis.call('HMGET', job, 'state', 'queued')
      if r and r[1] == 'queued' then
        found[#found + 1] = tonumber(l[2])
        found[#found + 1] = exact(math.max(tonumber(r[2] or made(job)), tonumber(l[3] or 0)))
      end
    end
  end
  answer[#answer + 1] = found
end
return answer
