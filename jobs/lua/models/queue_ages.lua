-- requires: base
-- reads read_lane: list, weight, since
-- reads read_job: state, queued
--
-- Reports which lanes the plan may take from, and since when their next jobs have been queued. It changes nothing.
--
-- KEYS[6…] one model record a model
-- ARGV[4] lanes of a model to look into at most
-- Returns now in ms, and then a list a model: {lanes, weight, moment, weight, moment, …}: for each weight the earliest
-- moment in ms since when the next job of one of its lanes has been queued and free to be taken.

local FIRST_MODEL, MAX_LANES = 6, tonumber(ARGV[4])
local ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

-- The moment in the first ten characters of a ULID, in ms: five bits each.
local function moment_of(stamp)
  local ms = 0
  for i = 1, #stamp do ms = ms * 32 + string.find(ALPHABET, string.sub(stamp, i, i), 1, true) - 1 end
  return ms
end

-- The lanes of a ring: how many there are, and the keys of the first ones.
local function lanes_of(ring)
  local number, first = 0, {}
  for _, share in ipairs(ring and redis.call('ZRANGE', ring, 0, -1) or {}) do
    local lanes = redis.call('HGET', share, 'lanes')
    number = number + redis.call('ZCARD', lanes)
    local room = MAX_LANES - #first
    for _, lane in ipairs(room > 0 and redis.call('ZRANGE', lanes, 0, room - 1) or {}) do first[#first + 1] = lane end
  end
  return number, first
end

-- {weight: moment} of these lanes.
local function moments_of(lanes)
  -- Stamps sort as their moments do, so only the first stamp of those without another moment is converted.
  local moments, stamps = {}, {}
  local function note(weight, moment) moments[weight] = math.min(moments[weight] or moment, moment) end
  for _, key in ipairs(lanes) do
    local lane = read_lane(key)
    local job = redis.call('LINDEX', lane.list, 0)
    local r = job and read_job(job) or {}
    if r.state == 'queued' then
      local stamp = string.match(job, 'job_(%w%w%w%w%w%w%w%w%w%w)')
      if r.queued or lane.since then
        note(lane.weight, math.max(tonumber(r.queued or moment_of(stamp)), tonumber(lane.since or 0)))
      elseif not stamps[lane.weight] or stamp < stamps[lane.weight] then
        stamps[lane.weight] = stamp
      end
    end
  end
  for weight, stamp in pairs(stamps) do note(weight, moment_of(stamp)) end
  return moments
end

local answer = {AT}
for i = FIRST_MODEL, #KEYS do
  local number, lanes = lanes_of(redis.call('HGET', KEYS[i], 'ring'))
  local ages = {number}
  for weight, moment in pairs(moments_of(lanes)) do
    ages[#ages + 1] = weight
    ages[#ages + 1] = exact(moment)
  end
  answer[#answer + 1] = ages
end
return answer
