-- requires: base, common_keys, records, lanes, counters, events, batch_state, job_state
-- reads read_batch_wishes: tell, tick, traceparent
--
-- The end of a job, for every reason.

-- Counts of ended jobs are compared over ticks of this length: a batch's real rate.
local TICK_MS = 10000

-- A job of a batch has ended: the batch may have ended, too. left: how many of its jobs remain in the state before.
local function advance_batch(record, last_tick, to, left)
  -- Starts a new tick of a batch: how many of its jobs had ended, other than by a cancel, when this tick began, and
  -- when the one before began.
  local function begin_tick(batch, tick, last, to)
    local b = read(batch, {'ended_at_tick', 'succeeded', 'filtered', 'failed'})
    local ended = tonumber(b.succeeded or 0) + tonumber(b.filtered or 0) + tonumber(b.failed or 0)
    if to ~= 'canceled' then ended = ended - 1 end
    local is_next = last and tonumber(last) == tick - 1
    redis.call('HSET', batch, 'tick', tick, 'ended_at_tick', ended,
      'ended_before', is_next and b.ended_at_tick or ended)
  end

  flush_counters()
  local tick = math.floor(NOW / TICK_MS)
  if last_tick ~= tostring(tick) then begin_tick(record.batch, tick, last_tick, to) end
  if record.trial == '1' then redis.call('HINCRBY', record.batch, 'trial_open', -1) end
  -- While other jobs remain in that state the batch cannot have ended.
  if left == 0 or record.trial == '1' or not left then advance(record.batch) end
end

-- Ends a job: state, time, expiry, event, and a message to whoever waits for it. Arguments as for `move`, and `own`: the
-- job's fields tell and deadline, where the script has read them.
local function finish(job, lane, from, to, counted, fields, own)
  fields = fields or {}
  -- A success's log has the moment. Records exist by the hundred thousand, so it is not stored twice.
  if to ~= 'succeeded' then
    fields[#fields + 1] = 'finished'
    fields[#fields + 1] = AT
  end
  local left = move(job, lane, from, to, counted, fields)
  own = own or read(job, {'tell', 'deadline'})
  if own.deadline then redis.call('ZREM', DEADLINES, job) end
  redis.call('PEXPIRE', job, RETENTION)
  redis.call('PUBLISH', job, to)
  local record = lane_record(lane)
  add(record.totals, 'ended:' .. to, 1)
  local single = record.batch == ''
  local batch = single and {tell = redis.call('HGET', record.tenant, 'listening')} or read_batch_wishes(record.batch)
  if batch.tell == '1' or own.tell == '1' then
    local data = fields_of(job)
    -- A batch keeps its submitter's traceparent once for all its jobs; a single job has its own in its spec.
    data.traceparent = batch.traceparent or nil
    emit('job.' .. to, record.owner, job, cjson.encode(data))
  end
  if not single and not counted then advance_batch(record, batch.tick, to, left) end
end

-- Cancels a job whose batch has been canceled: the batch has counted it already. False where the batch goes on.
local function cancel_with_batch(job, lane, from)
  if lane_record(lane).stopped ~= '1' then return false end
  redis.call('ZREM', WAITING, job)
  finish(job, lane, from, 'canceled', true)
  return true
end
