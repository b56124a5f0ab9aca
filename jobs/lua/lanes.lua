-- Which lanes the plan may take from, and how long their next jobs have been queued. It changes nothing.
--
-- KEYS[6…] one model record a model
-- ARGV[4] most lanes of a model to look into
-- Returns now in ms, and then a list a model: {lanes, weight, moment, weight, moment, …}, for each weight the moment in
-- ms since when the next job of one of its lanes has been queued and free to be taken: the earliest.

local ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

-- The moment in the first ten characters of a ULID, ms: five bits each.
local function moment_of(stamp)
  local ms = 0
  for i = 1, #stamp do ms = ms * 32 + string.find(ALPHABET, string.sub(stamp, i, i), 1, true) - 1 end
  return ms
end

local most, answer = tonumber(ARGV[4]), {AT}
for i = 6, #KEYS do
  local ring = redis.call('HGET', KEYS[i], 'ring')
  -- Stamps sort as their moments do: of those that nothing else is known of, the first alone is worked out.
  local lanes, looked, moments, stamps = 0, 0, {}, {}
  for _, share in ipairs(ring and redis.call('ZRANGE', ring, 0, -1) or {}) do
    local key = redis.call('HGET', share, 'lanes')
    lanes = lanes + redis.call('ZCARD', key)
    for _, lane in ipairs(looked < most and redis.call('ZRANGE', key, 0, most - looked - 1) or {}) do
      looked = looked + 1
      local l = redis.call('HMGET', lane, 'list', 'weight', 'since')
      local weight, job = l[2], redis.call('LINDEX', l[1], 0)
      local r = job and redis.call('HMGET', job, 'state', 'queued') or {}
      if r[1] == 'queued' then
        local stamp = string.match(job, 'job_(%w%w%w%w%w%w%w%w%w%w)')
        if r[2] or l[3] then
          local moment = math.max(tonumber(r[2] or moment_of(stamp)), tonumber(l[3] or 0))
          moments[weight] = math.min(moments[weight] or moment, moment)
        elseif not stamps[weight] or stamp < stamps[weight] then
          stamps[weight] = stamp
        end
      end
    end
  end
  for weight, stamp in pairs(stamps) do
    local moment = moment_of(stamp)
    moments[weight] = math.min(moments[weight] or moment, moment)
  end
  local told = {lanes}
  for weight, moment in pairs(moments) do
    told[#told + 1] = weight
    told[#told + 1] = exact(moment)
  end
  answer[#answer + 1] = told
end
return answer
