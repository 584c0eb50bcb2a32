-- eviction.lua: drops history, the oldest first, if the records of a project reach their limit or the store has
-- little memory left. History is the archived tenures, and the records of done tasks that are neither listed nor on
-- hold and ended longer ago than RULES.retention_ms.

local function evict(member)
  local fence, task = string.match(member, '^(%d+) (.+)$')
  call('ZREM', HISTORY, member)
  if not task or drop_archived(task, fence) then return end
  local rec = load(task)
  rec = rec.gone or rec
  if rec.fence ~= fence or live(rec) or rec.listed or rec.hold then return end
  if rec.ended + RULES.retention_ms <= NOW then forget(task, rec, 'whole') end
end

-- Drop the oldest entries, a hundred at most, until `enough` returns true.
local function evict_until(enough)
  for _, member in ipairs(redis.pcall('ZRANGE', HISTORY, 0, 99)) do
    if enough() then break end
    evict(member)
  end
end

-- Evict history if the records of the project, `weighed` bytes before this run, reach their limit; down to 15/16 of
-- it, so that not every call evicts.
local function evict_history(weighed)
  if weighed + RECORDS_GREW < RULES.record_bytes then return end
  evict_until(function() return weighed + RECORDS_GREW < RULES.record_bytes * 15 / 16 end)
end
