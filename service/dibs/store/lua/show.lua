-- show.lua: one task as it is now. Changes nothing.
--
-- ARGV[6] task
-- {'shown', now, view | ''}   {'damaged', now, losses, task}   nobody can read its record
-- {'stalled', now}
-- Safe to run twice: it only reads. O(tickets of the task).
-- Follows common.lua.

local rec = load(ARGV[6])
if rec.damaged then return answer('damaged', {}, ARGV[6]) end
return answer('shown', view(ARGV[6], rec))
