-- requires: nothing
--
-- The limits of a webhook receiver.

-- A window starts small, grows by one with each success and halves with each failure.
local FIRST_WINDOW, MAX_WINDOW = 4, 32
-- So many failures in a row open the breaker: one try at a time.
local BREAKS_AT = 5
