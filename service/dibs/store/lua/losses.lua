-- losses.lua: the claims that sessions lost (rule 10), which the next reply to the session reports.
--
--   :lost:SESSION   its losses, an entry for each task, as JSON:
--     task, fence    the tenure that it lost
--     reason         lapsed | broken | rejected; endings.lua returns `forgotten` for a tenure without a trace
--     at             when; kept_until: when the entry may be dropped
--     open           '1': lapsed, but nobody else has taken the task, so the session may still revive it. Not reported
--     by_ref, by_label, note   who has the task now or broke the claim, and their note or reason
--     pr             the pull request that was rejected
--     told           the request whose reply reported it

-- Losses that this run recorded, "session task".
local NOTED = {}

-- Record that `session` lost `task`. The entry stays for the retention, reported or not, so that a late
-- heartbeat still gets the reason; `fields` are the facts of this reason.
local function record_loss(session, task, fence, reason, kept_until, fields)
  local entry = {task = task, fence = fence, reason = reason, at = NOW_TEXT, kept_until = text(kept_until)}
  for field, value in pairs(fields or {}) do entry[field] = value end
  NOTED[session .. ' ' .. task] = true
  overwrite('HSET', LOST .. session, task, cjson.encode(entry))
  call('PERSIST', LOST .. session)  -- 0.1.0 set an expiry on it
  call('ZADD', PREFIX .. ':losers', 'LT', entry.kept_until, session)
end

-- Parse an entry of record_loss(). Returns the entry, nil if it is damaged or past its retention; and the end of
-- that retention, 0 if damaged.
local function read_loss(kept)
  local entry = decode_texts(kept)
  local at = entry and entry.task and entry.reason and number(entry.fence) and number(entry.at)
  if not at then return nil, 0 end
  local kept_until = number(entry.kept_until) or at + RULES.retention_ms
  if kept_until <= NOW then return nil, kept_until end
  return entry, kept_until
end

-- The losses of SESSION that read_losses() found, by task: the entry, or false if that is past its retention.
local LOSSES
-- The losses that were not reported before, by task.
local UNTOLD = {}

-- Return the losses to report to SESSION in this reply. A retry of the request that reported them gets them
-- again, because its first reply may have been lost. Runs before anything that may record another loss.
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

-- Mark these losses as reported. A newer loss of the same task, recorded since, stays unreported.
local function mark_losses_told()
  for task, entry in pairs(UNTOLD) do
    if not NOTED[SESSION .. ' ' .. task] then
      entry.told = REQUEST
      bypass_oom_guard()
      call('HSET', LOST .. SESSION, task, cjson.encode(entry))
    end
  end
end
