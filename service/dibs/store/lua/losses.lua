-- losses.lua: what sessions lost (rule 10): noted when it happens, told in the next reply to that session.
--
--   :lost:SESSION   what it lost, an entry for each task, as JSON:
--     task, fence    the tenure that it lost
--     reason         lapsed | broken | rejected; endings.lua answers `forgotten` for one that is nowhere any more
--     at             when; kept_until: when the entry may go
--     open           '1': lapsed, but nobody else has taken the task, so that the session may go on with it. Not told
--     by_ref, by_label, note   who has the task now or broke the claim, and what they said
--     pr             the pull request that was rejected
--     told           the request whose reply told of it

-- Losses that this run noted, "session task".
local NOTED = {}

-- Note that `session` no longer has `task`. The entry stays for the retention, told or not, so that a late
-- heartbeat still hears why; `fields` are the facts of this reason.
local function record_loss(session, task, fence, reason, kept_until, fields)
  local entry = {task = task, fence = fence, reason = reason, at = NOW_TEXT, kept_until = text(kept_until)}
  for field, value in pairs(fields or {}) do entry[field] = value end
  NOTED[session .. ' ' .. task] = true
  overwrite('HSET', LOST .. session, task, cjson.encode(entry))
  call('PERSIST', LOST .. session)  -- 0.1.0 let it end by itself
  call('ZADD', PREFIX .. ':losers', 'LT', entry.kept_until, session)
end

-- An entry of record_loss, nil when it is past its retention, or damaged; and when that is.
local function read_loss(kept)
  local entry = decode_texts(kept)
  local at = entry and entry.task and entry.reason and number(entry.fence) and number(entry.at)
  if not at then return nil, 0 end
  local kept_until = number(entry.kept_until) or at + RULES.retention_ms
  if kept_until <= NOW then return nil, kept_until end
  return entry, kept_until
end

-- What SESSION had lost when read_losses() looked, by task: the entry, or false when that is past.
local LOSSES
-- Those of them that it has not been told of, by task.
local UNTOLD = {}

-- Losses that SESSION is told in this reply. A retry of the request that told them hears them again,
-- because its first reply may have been lost. Comes before anything that may note another loss.
local function read_losses()
  if SESSION == '' then return {} end
  local flat, told = redis.pcall('HGETALL', LOST .. SESSION), {}
  LOSSES = {}
  for i = 1, #flat, 2 do
    local task, entry = flat[i], read_loss(flat[i + 1])
    LOSSES[task] = entry or false
    if entry and not entry.open and (not entry.told or entry.told == REQUEST) then
      told[#told + 1] = cjson.encode(entry)
      if not entry.told then UNTOLD[task] = entry end
    end
  end
  return told
end

-- Mark them as told, in a reply that goes to SESSION. Another loss of the same task,
-- noted since, stays.
local function mark_losses_told()
  for task, entry in pairs(UNTOLD) do
    if not NOTED[SESSION .. ' ' .. task] then
      entry.told = REQUEST
      bypass_oom_guard()
      call('HSET', LOST .. SESSION, task, cjson.encode(entry))
    end
  end
end
