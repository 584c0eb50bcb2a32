-- show.lua: one task as it is now. Changes nothing.
--
-- ARG.task
-- {'shown', now, view | ''}   {'damaged', now, losses, task}   its record cannot be read
-- {'stalled', now}
-- Safe to run twice: it only reads. O(tickets of the task).
--- @include common.lua
--- @include record.lua

local rec = load(ARG.task)
if rec.damaged then return answer('damaged', {}, ARG.task) end
return answer('shown', to_json(ARG.task, rec, nil, 'whole'))
