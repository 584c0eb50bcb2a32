-- break.lua: a person ends somebody's claim, naming the fence they saw.
--
-- ARGV[6] task   [7] fence   [8] reason   [9] by: who breaks it
--
-- {'ended', now, losses, {task, 'free', already}}
-- {'moved', now, losses, view | ''}   the fence is not the current one, or nothing is held
-- {'rate-limited', …}   {'stalled', now}
--
-- Safe to run twice: the record keeps who broke which fence, and the repeat answers 'already'. O(log live claims).
-- Follows common.lua, tenure.lua, holder.lua.

local task, fence, reason, by = ARGV[6], ARGV[7], ARGV[8], ARGV[9]

local rec = meet(task)
if rec.fence ~= fence then return answer('moved', {}, view(task, rec)) end
if rec.state == 'broken' then return answer('ended', {}, {task, 'free', '1'}) end
if not live(rec) and rec.state ~= 'lapsed' then return answer('moved', {}, view(task, rec)) end

settle(task, rec)
finish(task, rec, 'broken', {reason = reason, by = by})
call('HINCRBY', META, 'breaks', 1)
note_loss(rec.owner, task, rec.fence, 'broken', NOW + RULES.retention_ms, {
  by_label = by, note = reason})
tell('broken', task, rec, 'reason', reason, 'by', by)
return answer('ended', {}, {task, 'free', ''})
