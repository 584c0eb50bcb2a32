-- show.lua: one task as it is now. Changes nothing.
--
-- ARGV[6] task
-- {'shown', now, view | ''}   {'stalled', now}
-- Safe to run twice: it only reads. O(tickets of the task).
-- Follows common.lua.

local rec = load(ARGV[6])
return answer('shown', view(ARGV[6], rec))
