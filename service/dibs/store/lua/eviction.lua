-- eviction.lua: the history gives way, the oldest first: to what is new where the records of a project are at
-- their limit, and where the store has little memory left. A tenure is dropped; so is the record of a task that
-- is done, that is neither listed nor on hold, and whose end is longer ago than RULES.retention_ms.

local function evict(member)
  local fence, task = string.match(member, '^(%d+) (.+)$')
  call('ZREM', HISTORY, member)
  if not task or drop_archived(task, fence) then return end
  local rec = load(task)
  rec = rec.gone or rec
  if rec.fence ~= fence or live(rec) or rec.listed or rec.hold then return end
  if rec.ended + RULES.retention_ms <= NOW then forget(task, rec, 'whole') end
end

-- Drop the oldest, a hundred at most, until there is `enough`.
local function evict_until(enough)
  for _, member in ipairs(redis.pcall('ZRANGE', HISTORY, 0, 99)) do
    if enough() then break end
    evict(member)
  end
end

-- The records of the project weighed `weighed` before this run. Some more goes than must, so that it is not to be
-- done each time.
local function evict_history(weighed)
  if weighed + RECORDS_GREW < RULES.record_bytes then return end
  evict_until(function() return weighed + RECORDS_GREW < RULES.record_bytes * 15 / 16 end)
end
