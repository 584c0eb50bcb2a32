-- hold.lua: a person puts a task on hold, or with no task the whole project. Live claims go on.
--
-- ARG.task, '' for the project   .reason   .by: the person
-- ARG.for_ms: a span from now   .until_ms: or an instant of the store's clock, ms since 1970; both '' for no end
--
-- {'held-back', now, losses, hold as JSON, already: 1 | ''}
-- {'past', now, losses}   .until_ms has passed
-- {'damaged', now, losses, task}   its record cannot be read
-- {'stalled', now}
-- Safe to run twice: the second run finds the same hold. O(log tasks on hold + tags of the task).
--- @include common.lua
--- @include record.lua
--- @include listing.lua
--- @include archive.lua
--- @include lookup.lua
--- @include sums.lua
--- @include losses.lua
--- @include tenure.lua
--- @include holds.lua

local task, reason, by = ARG.task, ARG.reason, ARG.by
local hold = {by = by, reason = reason, at = NOW_TEXT}
if ARG.for_ms ~= '' then
  hold.until_ms = text(NOW + tonumber(ARG.for_ms))
elseif ARG.until_ms ~= '' then
  hold.until_ms = text(tonumber(ARG.until_ms) - math.floor(tonumber(ARG.lost_us) / 1000))
  if tonumber(hold.until_ms) <= NOW then return answer('past', {}) end
end

local AGAIN_MS = 60000

-- Return whether this call repeats the hold `known`: same person, reason and end. A repeated span ends a little
-- later than the first, so it counts as a repeat within AGAIN_MS.
local function same(known)
  if not known or known.by ~= by or known.reason ~= reason then return false end
  if known.until_ms == hold.until_ms then return true end
  return ARG.for_ms ~= '' and known.until_ms ~= nil and known.until_ms - known.at == tonumber(ARG.for_ms)
    and NOW - known.at < AGAIN_MS
end

local function kept_before()
  if task ~= '' then return load_hold(task) end
  local kept = redis.pcall('HGET', META, 'hold')
  return type(kept) == 'string' and read_hold(kept), kept
end

local rec = task ~= '' and load_current(task) or {}
if rec.damaged then return answer('damaged', {}, task) end
local known, kept = kept_before()
if same(known) then return answer('held-back', {}, kept, '1') end
if not call('HGET', META, 'epoch') then
  bypass_oom_guard()
  -- No fence of this project is older than its epoch; the sweep counts the sums.
  call('HSET', META, 'epoch', text(LATEST_US), 'weighs', '0 0 0')
end
if task ~= '' then
  record_lapse(task, rec)
  put_on_hold(task, rec, hold)
else
  bypass_oom_guard()
  call('HSET', META, 'hold', cjson.encode(hold))
  emit('on-hold', '', {}, 'reason', reason, 'by', by)
end
return answer('held-back', {}, cjson.encode(hold), '')
