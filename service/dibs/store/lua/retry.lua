-- retry.lua: a person lets a failed or done task be tried again. Its past stays.
--
-- ARG.task   .fence, '' for any   .reason   .by: the person
--
-- {'ended', now, losses, {task, state, already}}   state is the task's now
-- {'moved', now, losses, view | ''}   the fence is not that of its last tenure
-- {'held', now, losses, view}   a session has it
-- {'damaged', now, losses, task}   its record cannot be read
-- {'stalled', now}
-- Safe to run twice: the second run finds it neither failed nor done, and returns 'already'. O(tags and dependents
-- of the task).
--- @include common.lua
--- @include record.lua
--- @include listing.lua
--- @include archive.lua
--- @include lookup.lua
--- @include sums.lua
--- @include losses.lua
--- @include tenure.lua

local task, reason, by = ARG.task, ARG.reason, ARG.by
local rec = load_current(task)
if rec.damaged then return answer('damaged', {}, task) end
record_lapse(task, rec)
if ARG.fence ~= '' and rec.fence ~= ARG.fence then return answer('moved', {}, to_json(task, rec)) end
if live(rec) then return answer('held', {}, to_json(task, rec)) end
local done = rec.state == 'done'
if not done and not used_up(rec) then
  return answer('ended', {}, {task, rec.state and state_now(task, rec) or 'free', '1'})
end

rec.failures = nil
if done then
  rec.was = 'done'
  transition(task, rec, 'retried')
else
  bypass_oom_guard()
  resave(task, rec)
  set_ready(task, rec)
end
emit('retried', task, rec, 'reason', reason, 'by', by)
return answer('ended', {}, {task, state_now(task, rec), ''})
