-- overview.lua: a project at a glance. Changes nothing.
--
-- ARG.done_ms: tasks that were done within this time count
-- {'overview', now, held, parked, review, lapsed, done, failed, ready, blocked, on hold: 1 | 0, changed | ''}
--   changed: lease time of the last event
-- {'stalled', now}
--
-- Safe to run twice: it only reads. O(log claims), and at most MOST failed tasks and MOST tasks on hold. It counts
-- by the indexes, so a claim whose deadline a stall moved, or an overdue parked claim, may count wrongly until the
-- next sweep.
--- @include common.lua

local MOST = 1000
local since = NOW - tonumber(ARG.done_ms)
local live = call('ZCOUNT', LIVE, '(' .. NOW_TEXT, '+inf')
local lapsed = call('ZCARD', PREFIX .. ':lapsed') + call('ZCOUNT', LIVE, '-inf', NOW_TEXT)
-- A lapsed task that failed or is on hold is in both indexes, and does not count as lapsed.
for _, index in ipairs({':failed', ':on-hold'}) do
  local others = lapsed > 0 and redis.pcall('ZRANGE', PREFIX .. index, 0, MOST - 1) or {}
  for _, at in ipairs(others[1] and call('ZMSCORE', PREFIX .. ':lapsed', unpack(others)) or {}) do
    if at then lapsed = lapsed - 1 end
  end
end
local review = math.min(live, call('SCARD', PREFIX .. ':review'))
local parked = math.min(live - review, call('SCARD', PREFIX .. ':parked'))
local last = call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)
local changed = ''
if last[1] then
  local fields = last[1][2]
  for i = 1, #fields, 2 do
    if fields[i] == 'at' and number(fields[i + 1]) then changed = fields[i + 1] end
  end
end
return answer('overview', text(live - parked - review), text(parked), text(review), text(lapsed),
              text(call('ZCOUNT', PREFIX .. ':done', since, '+inf')), text(call('ZCARD', PREFIX .. ':failed')),
              text(call('ZCARD', PREFIX .. ':ready')), text(call('ZCARD', PREFIX .. ':blocked')),
              text(call('HEXISTS', META, 'hold')), changed)
