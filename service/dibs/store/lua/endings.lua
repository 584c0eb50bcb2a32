-- endings.lua: what a session has, and how a tenure ends.

local function take_losses()
  local told = read_losses()
  mark_losses_told()
  return told
end

local function ending_member(task, fence, who) return fence .. ' ' .. who .. ' ' .. task end

-- `who` ended the tenure of `task` with this fence.
local function ended_by(task, fence, who)
  local at = call('ZSCORE', PREFIX .. ':endings', ending_member(task, fence, who))
  return at and tonumber(at) + RULES.retention_ms > NOW
end

-- Write, so that the replicas which confirm this run have what it says. A server waits for them only
-- as far as the caller's own connection has written, so a repeat that writes nothing is confirmed
-- although nobody else may have the end that it repeats.
local function touch()
  if RULES.replicas > 0 and call('EXISTS', META) == 1 then
    bypass_oom_guard()
    call('HSET', META, 'touched', NOW_TEXT)
  end
end

-- End the tenure `rec`; the record stays for the retention so that a repeat can be answered.
local function end_tenure(task, rec, outcome, fields)
  local lapsed_before = rec.state == 'lapsed'
  for field, value in pairs(fields) do
    if value ~= '' and field == 'pr' then
      set_lookup_field(task, rec, field, value)
    elseif value ~= '' then
      rec[field] = value
    end
  end
  transition(task, rec, outcome)
  if lapsed_before or LOSSES == nil or LOSSES[task] ~= nil then call('HDEL', LOST .. rec.owner, task) end
  local who = outcome == 'broken' and outcome or string.sub(SESSION, 1, 10)
  call('ZADD', PREFIX .. ':endings', rec.ended, ending_member(task, rec.fence, who))
end

-- The tasks that SESSION holds, or held until they lapsed and nobody took them, sorted. Comes after
-- take_losses().
local function own_tasks()
  local tasks, seen = call('SMEMBERS', HELD .. SESSION), {}
  for _, task in ipairs(tasks) do seen[task] = true end
  for task, entry in pairs(LOSSES) do
    if entry and entry.open and not seen[task] then tasks[#tasks + 1] = task end
  end
  table.sort(tasks)
  return tasks
end

-- When the store forgot the tenure of `task` with this fence, in lease time. Within the retention there
-- is a trace of every tenure, unless the store lost what it knew (a failover, a restore, a flush) or a
-- person freed a damaged record. nil where there is a trace, or nothing was lost since.
local function forgotten_at(task, rec, fence)
  local granted_us, lost_us = number(fence), tonumber(ARG.lost_us)
  local now_us = NOW * 1000 + lost_us
  if not granted_us or granted_us > now_us then return nil end
  if granted_us + RULES.retention_ms * 1000 <= now_us then return nil end
  if fence == rec.fence or fence == rec.last_fence or ended_by(task, fence, 'broken')
    or ended_by(task, fence, string.sub(SESSION, 1, 10)) then return nil end
  -- Another service may have gone on at a replaced primary after this one had left it.
  local most_us, ended = granted_us - RULES.stall_ms * 1000, nil
  for to, lost_before in string.gmatch(ARG.stalls .. ' 0-0:' .. ARG.lost_us, '%d+-(%d+):(%-?%d+)') do
    if ended and ended * 1000 + lost_before > most_us then return ended end
    ended = to
  end
  local freed = call('ZSCORE', PREFIX .. ':endings', ending_member(task, '1', 'broken'))
  if freed and freed * 1000 + lost_us >= granted_us then return freed end
  local begun_us = number(call('HGET', META, 'epoch')) or now_us
  if begun_us > granted_us then return text(math.floor((begun_us - lost_us) / 1000)) end
end

-- Why SESSION does not hold `task`, where it named this fence or none: {'lost', entry} or
-- {'not-holder'}.
local function why_not_holder(task, rec, fence)
  local entry = call('HGET', LOST .. SESSION, task)
  if entry and read_loss(entry) then return 'lost', entry end
  local at = forgotten_at(task, rec, fence)
  if not at then return 'not-holder', '' end
  entry = {task = task, fence = fence, reason = 'forgotten', at = at}
  if live(rec) then
    entry.by_ref, entry.by_label, entry.note = string.sub(rec.owner, 1, 10), rec.label, rec.note
  end
  return 'lost', cjson.encode(entry)
end
