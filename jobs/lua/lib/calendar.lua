-- requires: nothing
--
-- Days in UTC.

local DAY_MS = 86400000

-- The UTC day of a moment in ms since 1970, as 'YYYY-MM-DD'. Months are counted from March, so that the leap day is a
-- year's last; 146,097 days are the 400 years after which the calendar repeats. Source:
-- https://howardhinnant.github.io/date_algorithms.html (civil_from_days)
local function utc_day(ms)
  local days = math.floor(ms / DAY_MS) + 719468
  local era = math.floor(days / 146097)
  local day_of_era = days - era * 146097
  local year_of_era = math.floor((day_of_era - math.floor(day_of_era / 1460) + math.floor(day_of_era / 36524)
    - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local shifted_month = math.floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - math.floor((153 * shifted_month + 2) / 5) + 1
  local month = shifted_month < 10 and shifted_month + 3 or shifted_month - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02d', year, month, day)
end

-- Whole seconds until the next UTC day begins, rounded up.
local function seconds_to_next_day(ms) return math.ceil((DAY_MS - ms % DAY_MS) / 1000) end
