-- holder.lua: what a session has, and how a tenure ends.

-- End the tenure `rec`; the record stays for the retention so that a repeat can be answered.
local function finish(task, rec, outcome, fields)
  let_holder_write()
  if rec.state == 'parked' then call('SREM', PARKED, task) end
  rec.state, rec.ended = outcome, NOW_TEXT
  for field, value in pairs(fields) do
    if value ~= '' then rec[field] = value end
  end
  save(task, rec, 'PX', outcome == 'done' and RULES.done_retention_ms or RULES.retention_ms)
  call('ZREM', LIVE, task)
  call('ZREM', LAPSED, task)
  call('SREM', HELD .. rec.owner, task)
  call('HDEL', LOST .. rec.owner, task)
  if outcome == 'done' then call('ZADD', DONE, rec.ended, task) end
end

-- The tasks that SESSION holds, or held until they lapsed and nobody took them, sorted.
local function own_tasks()
  local tasks, seen = call('SMEMBERS', HELD .. SESSION), {}
  for _, task in ipairs(tasks) do seen[task] = true end
  local flat = call('HGETALL', LOST .. SESSION)
  for i = 1, #flat, 2 do
    if cjson.decode(flat[i + 1]).open and not seen[flat[i]] then tasks[#tasks + 1] = flat[i] end
  end
  table.sort(tasks)
  return tasks
end

-- Why SESSION does not hold `task`: {'lost', entry} or {'not-holder'}.
local function why_not(task)
  local entry = call('HGET', LOST .. SESSION, task)
  if entry then return 'lost', entry end
  return 'not-holder', ''
end
