-- holder.lua: what a session has, and how a tenure ends.

local function ending(task, fence, who) return fence .. ' ' .. who .. ' ' .. task end

-- `who` ended the tenure of `task` with this fence.
local function ended_by(task, fence, who)
  local at = call('ZSCORE', ENDINGS, ending(task, fence, who))
  return at and tonumber(at) + RULES.retention_ms > NOW
end

-- End the tenure `rec`; the record stays for the retention so that a repeat can be answered.
local function finish(task, rec, outcome, fields)
  local was = rec.state
  let_holder_write()
  if was == 'parked' then call('SREM', PARKED, task) end
  rec.state, rec.ended = outcome, NOW_TEXT
  for field, value in pairs(fields) do
    if value ~= '' then rec[field] = value end
  end
  save(task, rec)
  if was == 'lapsed' then
    call('ZREM', LAPSED, task)
  else
    call('ZREM', LIVE, task)
    call('SREM', HELD .. rec.owner, task)
    leave(rec.place)
  end
  if was == 'lapsed' or KNOWN == nil or KNOWN[task] ~= nil then call('HDEL', LOST .. rec.owner, task) end
  call('ZADD', outcome == 'done' and DONE or ENDED, rec.ended, task)
  local who = outcome == 'broken' and outcome or string.sub(SESSION, 1, 10)
  call('ZADD', ENDINGS, rec.ended, ending(task, rec.fence, who))
end

-- The tasks that SESSION holds, or held until they lapsed and nobody took them, sorted. Comes after
-- losses().
local function own_tasks()
  local tasks, seen = call('SMEMBERS', HELD .. SESSION), {}
  for _, task in ipairs(tasks) do seen[task] = true end
  for task, entry in pairs(KNOWN) do
    if entry and entry.open and not seen[task] then tasks[#tasks + 1] = task end
  end
  table.sort(tasks)
  return tasks
end

-- Why SESSION does not hold `task`: {'lost', entry} or {'not-holder'}.
local function why_not(task)
  local entry = call('HGET', LOST .. SESSION, task)
  if entry and read_loss(entry) then return 'lost', entry end
  return 'not-holder', ''
end
