-- overview.lua: a project at a glance. Changes nothing.
--
-- ARGV[6] how long ago a task may have been done to be counted, ms
-- {'overview', now, held, parked, lapsed, done, changed | ''}   changed: lease time of the last event
-- {'stalled', now}
--
-- Safe to run twice: it only reads. O(live claims).
-- Follows common.lua.

local since = NOW - tonumber(ARGV[6])
local count = {held = 0, parked = 0, lapsed = call('ZCARD', LAPSED)}
for _, task in ipairs(call('ZRANGE', LIVE, 0, RULES.list_scan - 1)) do
  local state = state_now(load(task))
  count[state] = (count[state] or 0) + 1
end
local last = call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)
local changed = ''
if last[1] then
  local fields = last[1][2]
  for i = 1, #fields, 2 do
    if fields[i] == 'at' then changed = fields[i + 1] end
  end
end
return answer('overview', text(count.held), text(count.parked), text(count.lapsed),
              text(call('ZCOUNT', DONE, since, '+inf')), changed)
