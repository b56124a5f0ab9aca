-- requires: nothing
--
-- The common KEYS and ARGV of every script on webhook deliveries:
--   KEYS[1] outbox       STREAM
--   KEYS[2] queues       ZSET  receiver queue -> when to look at it again, ms
--   KEYS[3] KEYS[4] KEYS[5] ZSETs  receiver queue with something due -> its turn: of quick receivers, new, slow
--   KEYS[6] KEYS[7] KEYS[8] ZSETs  delivery key#number -> end of the lease, ms, of tries under way: the same kinds
--   KEYS[9] workers      ZSET  name#threads of each live webhook worker -> when it counts as gone, ms
--   ARGV[1] now, see lib/base.lua
--   ARGV[2] length of a lease, ms
--   ARGV[3] retention of a delivery that succeeded, ms   ARGV[4] of one that was exhausted, ms
-- A receiver queue is an endpoint's record, or that of the addresses of one origin that jobs and batches name. It names
-- the keys it belongs with (`due`, `tenant`, `listeners`, `totals`, `breakers`, `i:STATE`), and a delivery names its
-- queue in the field `line`, so no script builds a key.

local OUTBOX, QUEUES, WORKERS = KEYS[1], KEYS[2], KEYS[9]
local KINDS = {'quick', 'new', 'slow'}
local TURNS = {quick = KEYS[3], new = KEYS[4], slow = KEYS[5]}
local LEASES = {quick = KEYS[6], new = KEYS[7], slow = KEYS[8]}
local LEASE = tonumber(ARGV[2])
local RETENTION = {succeeded = tonumber(ARGV[3]), exhausted = tonumber(ARGV[4])}

-- A queue outlives what waits in it: ten tries, none more than 29 hours after the one before (the retry schedule of
-- webhooks), and then its deliveries are kept. Each move starts this time again, because waiting for a receiver to
-- recover uses up no try.
local QUEUE_KEPT = RETENTION.exhausted * 2 + 12 * 86400000
