-- requires: base, scores
-- reads read_lane: list, model, tenant, batch, owner, trial, totals, weight, price, stopped, i:queued, i:running,
--   i:succeeded
-- reads read_lane_place: share, tag, held
-- reads read_share_place: lanes, ring, tag, v, model, stalled
--
-- Lanes, and their places in their shares and in the rings of their models.

-- The record of a lane. It is read once a call: no script changes these fields after it has read them here.
local lane_records = {}
local function lane_record(lane)
  local record = lane_records[lane]
  if not record then
    record = read_lane(lane)
    lane_records[lane] = record
  end
  return record
end

-- Reads the key of a lane's index of jobs in one state into its record. `read_lane` has the indexes that most jobs enter.
local function index_of(lane, state)
  local field = 'i:' .. state
  local index = redis.call('HGET', lane, field)
  lane_record(lane)[field] = index
  return index
end

-- A share that was idle starts at the present virtual time of its model's ring: idleness earns no credit.
local function enter_ring(share, ring, tag, model)
  local virtual_time = first_score(ring) or tonumber(redis.call('HGET', model, 'v') or 0)
  redis.call('ZADD', ring, exact(math.max(virtual_time, tonumber(tag or 0))), share)
end

-- Puts a lane that has queued jobs into its share, and the share into its model's ring. A lane that was idle starts at
-- the present virtual time of its share.
local function activate(lane)
  local place = read_lane_place(lane)
  if place.held == '1' then return end
  local share = read_share_place(place.share)
  if not redis.call('ZSCORE', share.lanes, lane) then
    local virtual_time = first_score(share.lanes) or tonumber(share.v or 0)
    redis.call('ZADD', share.lanes, exact(math.max(virtual_time, tonumber(place.tag or 0))), lane)
  end
  if share.stalled ~= '1' and not redis.call('ZSCORE', share.ring, place.share) then
    enter_ring(place.share, share.ring, share.tag, share.model)
  end
end
