-- requires: nothing
--
-- Members of the sorted sets of leases, made by `member_of`.

-- The key and the attempt of a member.
local function parts_of(member)
  local at = string.find(member, '#', 1, true)
  return string.sub(member, 1, at - 1), string.sub(member, at + 1)
end
