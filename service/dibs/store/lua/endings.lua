-- endings.lua: the claims of a session, and the end of a tenure.

local function take_losses()
  local told = read_losses()
  mark_losses_told()
  return told
end

local function ending_member(task, fence, who) return fence .. ' ' .. who .. ' ' .. task end

-- Return whether `who` ended the tenure of `task` with this fence.
local function ended_by(task, fence, who)
  local at = call('ZSCORE', PREFIX .. ':endings', ending_member(task, fence, who))
  return at and tonumber(at) + RULES.retention_ms > NOW
end

-- Write something, so that WAIT covers the end that this run repeats. WAIT only covers what the caller's
-- own connection has written: replicas would confirm a repeat that writes nothing, even if they do not have
-- that end.
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

-- Return the tasks that SESSION holds, and those of its lapsed claims that nobody has taken, sorted. Runs
-- after take_losses().
local function own_tasks()
  local tasks, seen = call('SMEMBERS', HELD .. SESSION), {}
  for _, task in ipairs(tasks) do seen[task] = true end
  for task, entry in pairs(LOSSES) do
    if entry and entry.open and not seen[task] then tasks[#tasks + 1] = task end
  end
  table.sort(tasks)
  return tasks
end

-- Return when, in lease time, the store lost the tenure of `task` with this fence; nil if there is a trace of
-- it, or nothing was lost since. Within the retention every tenure leaves a trace, unless the store lost data
-- (a failover, a restore, a flush) or a person freed a damaged record.
local function forgotten_at(task, rec, fence)
  local granted_us, lost_us = number(fence), tonumber(ARG.lost_us)
  local now_us = NOW * 1000 + lost_us
  if not granted_us or granted_us > now_us then return nil end
  if granted_us + RULES.retention_ms * 1000 <= now_us then return nil end
  if fence == rec.fence or fence == rec.last_fence or ended_by(task, fence, 'broken')
    or ended_by(task, fence, string.sub(SESSION, 1, 10)) then return nil end
  -- Another service may have used a replaced primary after this service had left it.
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

-- Return why SESSION, which named this fence or none, does not hold `task`: 'lost' and the entry, or
-- 'not-holder' and ''.
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
