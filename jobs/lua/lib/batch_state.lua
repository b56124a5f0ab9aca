-- requires: base, records, counters, events
-- reads read_batch_progress: state, ingested, queued, waiting, running, gate, trial_open, chores, sweep
--
-- The states of a batch and their events.

local function emit_batch(kind, batch)
  flush_counters()
  emit('batch.' .. kind, redis.call('HGET', batch, 'tenant'), batch, cjson.encode(fields_of(batch)))
  -- If a schedule's run made this batch, the run is checked again after the batch has ended.
  local made_by = read(batch, {'run', 'finished', 'chores'})
  if made_by.run and made_by.finished and redis.call('EXISTS', made_by.run) == 1 then
    redis.call('ZADD', made_by.chores, AT, 'run ' .. made_by.run)
  end
end

-- Completes a batch whose last job has ended, and stops one whose trial has ended until it is approved. Each event is
-- emitted once, in the step that causes it.
local function advance(batch)
  flush_counters()
  local b = read_batch_progress(batch)
  if b.ingested ~= '1' or b.sweep then return end
  if b.state == 'completed' or b.state == 'canceled' or b.state == 'failed' then return end
  if tonumber(b.queued or 0) + tonumber(b.waiting or 0) + tonumber(b.running or 0) == 0 then
    redis.call('HSET', batch, 'state', 'completed', 'finished', AT)
    redis.call('HDEL', batch, 'reason')
    redis.call('ZADD', b.chores, AT, 'results ' .. batch)
    emit_batch('completed', batch)
  elseif b.gate == 'trial' and tonumber(b.trial_open or 0) == 0 and b.state ~= 'awaiting_approval'
    and b.state ~= 'paused' then
    redis.call('HSET', batch, 'state', 'awaiting_approval', 'trial_ended', AT)
    emit_batch('awaiting_approval', batch)
  end
end
