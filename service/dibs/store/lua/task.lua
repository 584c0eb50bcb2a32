-- task.lua: one task in full: its claim, its listing, its needs, its dependents and its tenures. Changes
-- nothing.
--
-- ARG.task
-- {'shown', now, view | '', {need, view | ''…}, {dependent, view | ''…}, {tenure as JSON…}}
--   100 dependents at most; the ended tenures, the latest first
-- {'damaged', now, losses, task}   its record cannot be read
-- {'stalled', now}
-- Safe to run twice: it only reads. O(needs + dependents + tickets of the task).
--- @include common.lua
--- @include record.lua
--- @include listing.lua
--- @include archive.lua

local function views(tasks)
  local found = {}
  for _, task in ipairs(tasks) do
    local rec = load(task)
    found[#found + 1] = task
    found[#found + 1] = rec.damaged and '' or to_json(task, rec, true)
  end
  return found
end

local rec = load(ARG.task)
if rec.damaged then return answer('damaged', {}, ARG.task) end
local entry, needs, dependents = listing(ARG.task), {}, redis.pcall('SMEMBERS', PREFIX .. ':needed:' .. ARG.task)
for need in each_line(entry and entry.needs) do needs[#needs + 1] = need end
table.sort(dependents)
for i = 101, #dependents do dependents[i] = nil end
local tenures = tenures_of(ARG.task, rec, RULES.tenures_kept)
return answer('shown', to_json(ARG.task, rec, nil, 'whole'), views(needs), views(dependents), tenures)
