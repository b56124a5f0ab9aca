-- requires: base, lanes, counters, transitions
--
-- The one place where a job's state changes.

-- Changes a job's state: record, index, counts of its model and of its batch.
-- counted: the batch has counted this change already. The jobs of a canceled batch are counted all at once when it is
--   canceled; their records follow.
-- fields: a list of field, value, … that is written in the same step, or nil; it is changed.
-- Returns how many jobs of the batch remain in the state `from`, or nil where that is not known.
local function move(job, lane, from, to, counted, fields)
  if not ALLOWED[from .. '>' .. to] then
    error(redis.error_reply('ILLEGAL transition ' .. from .. ' to ' .. to .. ' of ' .. job).err)
  end
  local record = lane_record(lane)
  local batch, left = not counted and record.batch ~= '' and record.batch, nil
  if from == 'new' then
    add(record.totals, 'submitted', 1)
  else
    index_remove(record['i:' .. from] or index_of(lane, from), job)
    -- Running jobs are counted by the model's in_flight; ended ones by its totals: ends less retries by the user.
    if from == 'queued' or from == 'waiting' then
      add(record.model, 'n:' .. from, -1)
    elseif from ~= 'running' then
      add(record.totals, 'again:' .. from, 1)
    end
    if batch then left = add(batch, from, -1) end
  end
  local written = fields or {}
  written[#written + 1] = 'state'
  written[#written + 1] = to
  -- A job that is queued by its submit needs no moment: its id contains it.
  if to == 'queued' and from ~= 'new' then
    written[#written + 1] = 'queued'
    written[#written + 1] = AT
  end
  redis.call('HSET', job, unpack(written))
  index_add(record['i:' .. to] or index_of(lane, to), job)
  if to == 'queued' or to == 'waiting' then add(record.model, 'n:' .. to, 1) end
  if batch then add(batch, to, 1) end
  return left
end
