-- requires: bulk, lanes
--
-- Counts, index entries and pushes to lanes. Each is written at once, unless the script has called `begin_counters`: a
-- script that moves many jobs collects them, and `flush_counters` writes them with one command a key.

local pending
local function begin_counters() pending = {counts = {}, removed = {}, added = {}, pushed = {}} end

-- Adds to a count. Returns its new value, or nil while counts are collected.
local function add(key, field, by)
  if not pending then return redis.call('HINCRBY', key, field, by) end
  local counts = pending.counts[key] or {}
  counts[field] = (counts[field] or 0) + by
  pending.counts[key] = counts
end

local function index_remove(index, job)
  if not pending then return redis.call('ZREM', index, job) end
  local removed = pending.removed[index] or {}
  removed[#removed + 1] = job
  pending.removed[index] = removed
end

local function index_add(index, job)
  if not pending then return redis.call('ZADD', index, 0, job) end
  local added = pending.added[index] or {}
  added[#added + 1] = 0
  added[#added + 1] = job
  pending.added[index] = added
end

-- Puts a job on its lane: at the end, or with `front` at the front, which is never delayed.
local function enqueue(job, lane, front)
  if pending and not front then
    local pushed = pending.pushed[lane] or {}
    pushed[#pushed + 1] = job
    pending.pushed[lane] = pushed
    return
  end
  redis.call(front and 'LPUSH' or 'RPUSH', lane_record(lane).list, job)
  activate(lane)
end

-- Writes the collected counts, entries and pushes, and starts to collect again from nothing.
local function flush_counters()
  if not pending then return end
  local collected = pending
  begin_counters()
  for key, counts in pairs(collected.counts) do
    for field, by in pairs(counts) do
      if by ~= 0 then redis.call('HINCRBY', key, field, by) end
    end
  end
  for index, jobs in pairs(collected.removed) do in_chunks('ZREM', index, jobs) end
  for index, entries in pairs(collected.added) do in_chunks('ZADD', index, entries) end
  for lane, jobs in pairs(collected.pushed) do
    in_chunks('RPUSH', lane_record(lane).list, jobs)
    activate(lane)
  end
end
