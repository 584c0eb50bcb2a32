-- availability.lua: whether SESSION may take a task; and which task is next for it.

local reopen = ARG.reopen == '1'

-- Return whether SESSION may take `task`: nil (free), 'mine', 'damaged', or the reason of a refusal and when it ends;
-- then the tickets whose window has passed, if any, and when the next window begins. The caller records a lapse before.
local function availability(task, rec)
  if rec.state == nil then return nil end
  if rec.damaged then return 'damaged' end
  if rec.owner == SESSION and (live(rec) or revivable(rec)) then return 'mine' end
  if live(rec) then return 'held', rec.due_at + RULES.grace_ms end
  if rec.state == 'done' and not reopen then return 'done', nil end
  if on_hold(rec) then return 'on-hold', rec.hold ~= NEVER and tonumber(rec.hold) or nil end
  if rec.state ~= 'done' and used_up(rec) and not reopen then return 'failed', nil end
  if rec.listed == '1' and call('HEXISTS', MISSING, task) == 1 then return 'blocked', nil end  -- a dropped task needs nothing
  if rec.state == 'new' and not rec.queued then return nil end
  -- The instant from which anyone may take a task that is no longer held.
  local free_from = tonumber(rec.ended or '0')
  if rec.state == 'lapsed' then free_from = rec.due_at + RULES.grace_ms end
  if NOW < free_from then return 'cooling', free_from end
  if not rec.queued then return nil end
  -- Find the current hand-over window. Windows follow one another from the moment the task became free.
  -- Each ticket has one, even if it has expired since; a session that lets its window pass leaves the queue.
  local start, passed = math.max(free_from, tonumber(rec.turns_from or '0')), nil
  for _, ticket in ipairs(tickets(task, 'all')) do
    local begins, window = math.max(start, ticket.joined), RULES.handover_ms
    -- A session that did not ask again shortly before its window gets a short one, so that others wait less.
    if ticket.until_ms - RULES.ticket_ms + RULES.fresh_ms < begins then window = math.min(window, RULES.stale_ms) end
    local ends = math.min(begins + window, ticket.until_ms)
    if NOW < ends then
      if ticket.session ~= SESSION then return 'reserved', ends, passed, start end
      return nil, nil, passed, start
    end
    start, passed = math.max(start, ends), passed or {}
    passed[#passed + 1] = ticket
  end
  return nil, nil, passed, start
end

-- Load a task, end an expired hold, record a lapse, and drop tickets whose window has passed. Returns the record,
-- and the reason and the instant of availability().
local function load_availability(task)
  local rec = expire_hold(task, load_current(task))
  record_lapse(task, rec)
  local reason, free_at, passed, turns_from = availability(task, rec)
  if passed then
    drop_tickets(task, rec, passed)
    rec.turns_from = text(turns_from)
    resave(task, rec)
  end
  return rec, reason, free_at
end

-- Find the task for `next`: the oldest claim that SESSION works on, else the first ready task that it may take.
-- Returns the task, its record, and 'mine' or nil; without a task nil, and the soonest instant that may free one.
local function find_next(index)
  local own, own_rec
  for _, task in ipairs(call('SMEMBERS', HELD .. SESSION)) do
    local rec = load_current(task)
    record_lapse(task, rec)
    local works = rec.owner == SESSION and rec.state == 'held'
    if works and (not own or tonumber(rec.fence) < tonumber(own_rec.fence)) then own, own_rec = task, rec end
  end
  if own then return own, expire_hold(own, own_rec), 'mine' end
  for _, task in ipairs(call('ZRANGEBYSCORE', LIVE, '-inf', NOW, 'LIMIT', 0, 100)) do record_lapse(task, load_current(task)) end
  for _, task in ipairs(call('ZRANGEBYSCORE', ON_HOLD, '-inf', NOW, 'LIMIT', 0, 100)) do
    expire_hold(task, load_current(task))
  end
  local from, soonest = 0, nil
  repeat
    local page = call('ZRANGE', index, from, from + 49)
    for _, task in ipairs(page) do
      local rec, reason, free_at = load_availability(task)
      if reason == nil or reason == 'mine' then return task, rec, reason end
      if free_at then soonest = math.min(soonest or free_at, free_at) end
    end
    from = from + 50
  until #page < 50 or from >= RULES.list_scan
  return nil, soonest
end
