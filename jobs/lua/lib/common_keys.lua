-- requires: nothing
--
-- The common KEYS and ARGV, the same in every script on jobs, workers, models, batches, schedules and background tasks:
--   KEYS[1] leases     ZSET  job key#attempt -> end of the lease, ms
--   KEYS[2] waiting    ZSET  job key -> due, ms
--   KEYS[3] deadlines  ZSET  job key -> deadline, ms
--   KEYS[4] outbox     STREAM
--   KEYS[5] fleet      HASH
--   ARGV[1] now, see lib/base.lua
--   ARGV[2] retention of a finished job's record, ms
--   ARGV[3] length of a lease, ms
-- No script builds a key. Records name the keys they belong with: a job has `lane`; a lane has `list`, `share`,
-- `model`, `totals`, `tenant`, `batch` and `i:STATE`; a share has `lanes` and `ring`; a batch has `lanes` and `chores`.

local LEASES, WAITING, DEADLINES, OUTBOX, FLEET = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local RETENTION, LEASE = tonumber(ARGV[2]), tonumber(ARGV[3])
