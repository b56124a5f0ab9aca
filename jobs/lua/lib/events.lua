-- requires: base, common_keys
--
-- Events enter the outbox in the same step as the change that they report.

local function emit(kind, tenant, subject, data)
  redis.call('XADD', OUTBOX, '*', 'type', kind, 'tenant', tenant, 'subject', subject, 'at', AT, 'data', data)
end
