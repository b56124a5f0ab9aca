-- requires: records, lanes
-- reads read_paid: paid, again_after, cost
--
-- What attempts cost, and what a batch's budget holds for them.

-- Gives back the part of its batch's budget that an attempt holds until its price is known, or until it ends. A job
-- that was canceled and retried can have two attempts at once.
local function unreserve(job, attempt, batch)
  local field = 'reserved:' .. attempt
  local price = redis.call('HGET', job, field)
  if not price then return end
  redis.call('HDEL', job, field)
  redis.call('HINCRBY', batch, 'reserved', -tonumber(price))
end

-- Counts what an attempt cost, or may have cost, once: a second report is ignored, and the job's state does not matter.
local function charge(job, attempt, lane, cost)
  if cost <= 0 then return end
  local before = read_paid(job)
  if before.paid == attempt then return end
  redis.call('HSET', job, 'paid', attempt)
  redis.call('HINCRBY', job, 'cost', cost)
  local record = lane_record(lane)
  local batch = record.batch
  redis.call('HINCRBY', record.totals, 'cost', cost)
  redis.call('HINCRBY', record.totals, 'paid', 1)
  -- The field `paid` of a job that succeeded has been removed.
  if before.cost and tonumber(before.paid or math.huge) > tonumber(before.again_after or 0) then
    redis.call('HINCRBY', record.totals, 'paid_again', 1)
  end
  if batch ~= '' then
    redis.call('HINCRBY', batch, 'cost', cost)
    unreserve(job, attempt, batch)
    -- The attempt was counted as maybe billed; now its cost is known.
    if redis.call('HGET', job, 'suspected') == attempt then
      redis.call('HDEL', job, 'suspected')
      redis.call('HINCRBY', batch, 'unknown', -tonumber(record.price or 0))
    end
  end
end

-- Counts an attempt as maybe billed: its call was under way when its worker was lost. An attempt that continues from a
-- recorded answer buys nothing.
local function suspect(job, attempt, lane)
  local record = lane_record(lane)
  if record.batch == '' or tonumber(record.price or 0) == 0 then return end
  local known = read(job, {'paid', 'checkpoint', 'suspected'})
  if known.paid == attempt or known.checkpoint or known.suspected == attempt then return end
  redis.call('HSET', job, 'suspected', attempt)
  redis.call('HINCRBY', record.batch, 'unknown', record.price)
end
