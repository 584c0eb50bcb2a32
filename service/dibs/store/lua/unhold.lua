-- unhold.lua: a person ends the hold of a task, or with no task the hold of the whole project.
--
-- ARG.task, '' for the project   .reason   .by: the person
--
-- {'ended', now, losses, {task, state, already}}   state is the task's now, '' for the project
-- {'damaged', now, losses, task}   its record cannot be read
-- {'stalled', now}
-- Safe to run twice: the second run finds no hold, and returns 'already'. O(log tasks on hold + tags of the task).
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
if task == '' then
  local was = call('HEXISTS', META, 'hold') == 1
  if was then
    bypass_oom_guard()
    call('HDEL', META, 'hold')
    emit('off-hold', '', {}, 'reason', reason, 'by', by)
  end
  return answer('ended', {}, {'', '', was and '' or '1'})
end

local rec = load_current(task)
if rec.damaged then return answer('damaged', {}, task) end
local was = rec.hold ~= nil
if was then
  record_lapse(task, rec)
  rec = take_off_hold(task, rec, by, reason)
end
return answer('ended', {}, {task, rec.state and state_now(task, rec) or 'free', was and '' or '1'})
