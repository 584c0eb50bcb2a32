-- break.lua: a person ends a session's claim, naming the fence they saw. A record that cannot be read has
-- no fence: a person who saw that names DAMAGE, the fence of no claim, and so frees the task.
--
-- ARG.task   .fence   .reason   .by: who breaks it   .hold: 1 to put the task on hold as well, or ''
--
-- {'ended', now, losses, {task, state, already}}   state is the task's now
-- {'moved', now, losses, view | ''}   the fence is not the current one, or nothing is held
-- {'damaged', now, losses, task}   its record cannot be read, and the fence is not DAMAGE
-- {'stalled', now}
--
-- Safe to run twice: ends are kept for the retention, and a repeat returns 'already'.
-- O(log live claims).
--- @include common.lua
--- @include record.lua
--- @include listing.lua
--- @include archive.lua
--- @include lookup.lua
--- @include sums.lua
--- @include losses.lua
--- @include tenure.lua
--- @include holds.lua
--- @include endings.lua

local task, fence, reason, by = ARG.task, ARG.fence, ARG.reason, ARG.by
local hold = ARG.hold == '1' and {by = by, reason = reason, at = NOW_TEXT}
local DAMAGE = '1'

local rec = load_current(task)
if rec.damaged and fence == DAMAGE then
  forget(task, rec)
  if hold then put_on_hold(task, load(task), hold) end
  call('ZADD', PREFIX .. ':endings', NOW_TEXT, ending_member(task, fence, 'broken'))
  increment('breaks', '1')
  emit('broken', task, {}, 'reason', reason, 'by', by)
  return answer('ended', {}, {task, state_now(task, load(task)), ''})
elseif rec.damaged then
  return answer('damaged', {}, task)
end
local current = rec.fence == fence
-- A broken claim may be back, because its pull request was opened again: then it can be broken again.
local stands = current and (live(rec) or rec.state == 'lapsed')
if not stands and (current and rec.state == 'broken' or ended_by(task, fence, 'broken')) then
  -- The first break may not have asked for a hold, or an error may have interrupted it.
  if hold and current and not on_hold(rec) then put_on_hold(task, rec, hold) else touch() end
  return answer('ended', {}, {task, state_now(task, rec), '1'})
end
if not stands then
  return answer('moved', {}, to_json(task, rec))
end

record_lapse(task, rec)
end_tenure(task, rec, 'broken', {reason = reason, by = by})
increment('breaks', '1')
record_loss(rec.owner, task, rec.fence, 'broken', NOW + RULES.retention_ms, {
  by_label = by, note = reason})
if hold then put_on_hold(task, rec, hold) end
return answer('ended', {}, {task, state_now(task, rec), ''})
