-- tenure.lua: how a claim lapses, goes on, and is lost; and when it is forgotten.

-- States of which :ended has the tasks.
local IN_ENDED = {released = true, abandoned = true, broken = true}

local function held_at(place) return number(call('HGET', PREFIX .. ':places', place)) or 0 end
local function come_to(place)
  local come = redis.pcall('HINCRBY', PREFIX .. ':places', place, 1)
  if type(come) == 'table' then call('HSET', PREFIX .. ':places', place, '1') end
end
local function leave(place)
  if not place then return end
  local left = redis.pcall('HINCRBY', PREFIX .. ':places', place, -1)
  if type(left) == 'table' or left <= 0 then call('HDEL', PREFIX .. ':places', place) end
end

-- Losses that this run noted, "session task".
local NOTED = {}

-- What a session no longer has. An entry stays for the retention, told or not, so that a late
-- heartbeat still hears why; `by` is the record of whoever has the task now.
local function note_loss(session, task, fence, reason, kept_until, fields)
  local entry = {task = task, fence = fence, reason = reason, at = NOW_TEXT, kept_until = text(kept_until)}
  for field, value in pairs(fields or {}) do entry[field] = value end
  NOTED[session .. ' ' .. task] = true
  local noted = redis.pcall('HSET', LOST .. session, task, cjson.encode(entry))
  if type(noted) == 'table' then
    if string.find(noted.err, 'WRONGTYPE', 1, true) then call('DEL', LOST .. session) end
    call('HSET', LOST .. session, task, cjson.encode(entry))
  end
  call('PERSIST', LOST .. session)  -- 0.1.0 let it end by itself
  call('ZADD', PREFIX .. ':losers', 'LT', entry.kept_until, session)
end

-- An entry of note_loss, nil when it is past its retention, or damaged; and when that is.
local function read_loss(kept)
  local entry = texts(kept)
  local at = entry and entry.task and entry.reason and number(entry.fence) and number(entry.at)
  if not at then return nil, 0 end
  local kept_until = number(entry.kept_until) or at + RULES.retention_ms
  if kept_until <= NOW then return nil, kept_until end
  return entry, kept_until
end

-- Count one more in META. A count that nobody can read begins anew, at `anew`.
local function count(field, anew)
  local so_many = redis.pcall('HINCRBY', META, field, 1)
  if type(so_many) == 'number' and so_many > 0 and so_many < 1e15 then return so_many end
  call('HSET', META, field, anew)
  return tonumber(anew)
end

-- The passing of a deadline, written down once by whichever act meets it first.
local function settle(task, rec)
  if not overdue(rec) then return end
  let_holder_write()
  if rec.state == 'parked' then call('SREM', PREFIX .. ':parked', task) end
  count('lapses', '1')
  rec.state, rec.ended = 'lapsed', text(rec.due_at)
  rec.due = rec.ended
  rec.lapses = text(tonumber(rec.lapses or '0') + 1)
  save(task, rec)
  call('ZREM', LIVE, task)
  call('ZADD', PREFIX .. ':lapsed', rec.ended, task)
  redis.pcall('SREM', HELD .. rec.owner, task)
  leave(rec.place)
  note_loss(rec.owner, task, rec.fence, 'lapsed', rec.due_at + RULES.retention_ms, {open = '1'})
  tell('lapsed', task, rec, 'note', rec.note or '')
end

-- Write a record again whose state stays. 0.1.0 kept what had ended in no index.
local function save_again(task, rec)
  save(task, rec)
  if IN_ENDED[rec.state] then call('ZADD', PREFIX .. ':ended', rec.ended, task) end
end

-- Drop all that is kept of a tenure that is over.
local function forget(task, rec)
  let_holder_write()
  settle(task, rec)
  -- A field of META has the names that look alike, a line each, by their skeleton. A record keeps it
  -- where it is more than the name in lower case.
  local alike, kept = '~' .. (rec.like or string.lower(task)), {}
  for name in string.gmatch(call('HGET', META, alike) or '', '[^\n]+') do
    if name ~= task then kept[#kept + 1] = name end
  end
  if #kept == 0 then
    call('HDEL', META, alike)
  else
    call('HSET', META, alike, table.concat(kept, '\n'))
  end
  call('DEL', RECORD .. task, PREFIX .. ':queue:' .. task)
  if SIZES[task] then GREW, SIZES[task] = GREW - weight(task, SIZES[task]), nil end
  call('SREM', PREFIX .. ':queued', task)
  for _, index in ipairs({':lapsed', ':done', ':ended'}) do call('ZREM', PREFIX .. index, task) end
  if rec.damaged then
    if call('ZREM', LIVE, task) == 1 then leave(rec.place) end
    call('ZREM', PREFIX .. ':damaged', task)
    call('SREM', PREFIX .. ':parked', task)
    call('HDEL', META, 'weighs')  -- nobody knows what it weighed when it could be read
  end
  if rec.state == 'lapsed' then call('HDEL', LOST .. rec.owner, task) end
end

-- Load a task's record to act on it: what is over goes now.
local function meet(task)
  local rec = load(task)
  if not rec.gone then return rec end
  forget(task, rec.gone)
  return {}
end

-- Take out of a queue whoever has not asked again in time; return how many still wait. Not while
-- the task is free: there each ticket that lapsed has had a window, and they come in order.
local function drop_lapsed_tickets(task, rec)
  local waiting = 0
  for _, ticket in ipairs(tickets(task, 'all')) do
    if ticket.until_ms > NOW then
      waiting = waiting + 1
    else
      let_holder_write()
      call('HDEL', PREFIX .. ':queue:' .. task, ticket.session)
      tell('unqueued', task, {owner = ticket.session, label = ticket.label, fence = rec.fence})
    end
  end
  return waiting
end

-- A lapsed claim that nobody took may go on, same fence, while it is within max_hold.
local function revivable(rec)
  return rec.state == 'lapsed' and tonumber(rec.since) + RULES.max_hold_ms > NOW
end

-- Extend the claim `rec` of SESSION on `task`, bring it back if it lapsed, and apply `change`:
-- {ttl_ms, state = 'held'|'parked', resume = bool, note, label, branch, url}, each or nil.
local function keep(task, rec, change)
  settle(task, rec)
  let_holder_write()
  local was, revived = rec.state, rec.state == 'lapsed'
  rec.state = change.state or 'held'
  if change.ttl_ms and rec.state == 'held' then rec.ttl = text(change.ttl_ms) end
  local span = tonumber(rec.ttl)
  if rec.state == 'parked' then span = change.ttl_ms or RULES.park_ms end
  if change.resume then rec.due_at = math.min(rec.due_at, NOW + span) end
  -- Never earlier than the deadline that the holder already has, and never past max_hold.
  local limit = tonumber(rec.since) + RULES.max_hold_ms
  rec.due_at = math.max(rec.due_at, math.min(NOW + span, limit))
  rec.due, rec.beat = text(rec.due_at), NOW_TEXT
  for _, field in ipairs({'note', 'label', 'branch', 'url'}) do
    if change[field] and change[field] ~= '' then rec[field] = change[field] end
  end
  if revived then rec.ended = nil end
  save(task, rec)
  call('ZADD', LIVE, rec.due, task)
  if revived then
    call('ZREM', PREFIX .. ':lapsed', task)
    call('SADD', HELD .. SESSION, task)
    call('HDEL', LOST .. SESSION, task)
    if rec.place then come_to(rec.place) end
    tell('revived', task, rec)
  end
  if rec.state ~= was then call(rec.state == 'parked' and 'SADD' or 'SREM', PREFIX .. ':parked', task) end
  if rec.state == 'parked' and was ~= 'parked' then tell('parked', task, rec, 'note', rec.note or '') end
  if rec.state == 'held' and was == 'parked' then tell('resumed', task, rec) end
end

-- What SESSION had lost when look_at_losses() looked, by task: the entry, or false when that is past.
local KNOWN
-- Those of them that it has not heard of, by task.
local UNTOLD = {}

-- Losses that SESSION is told in this reply. A retry of the request that told them hears them again,
-- because its first reply may have been lost. Comes before anything that may note another loss.
local function look_at_losses()
  if SESSION == '' then return {} end
  local flat, told = redis.pcall('HGETALL', LOST .. SESSION), {}
  KNOWN = {}
  for i = 1, #flat, 2 do
    local task, entry = flat[i], read_loss(flat[i + 1])
    KNOWN[task] = entry or false
    if entry and not entry.open and (not entry.told or entry.told == REQUEST) then
      told[#told + 1] = cjson.encode(entry)
      if not entry.told then UNTOLD[task] = entry end
    end
  end
  return told
end

-- Write down that SESSION hears of them, in a reply that goes to it. Another loss of the same task,
-- noted since, stays.
local function mark_told()
  for task, entry in pairs(UNTOLD) do
    if not NOTED[SESSION .. ' ' .. task] then
      entry.told = REQUEST
      let_holder_write()
      call('HSET', LOST .. SESSION, task, cjson.encode(entry))
    end
  end
end

local function losses()
  local told = look_at_losses()
  mark_told()
  return told
end

-- What META says that records and events weigh, and since when; nil where nobody can read it. Then the
-- sweep counts.
local function sums(kept)
  local records, events, since = string.match(kept or '', '^(%d+) (%d+) (%d+)$')
  if since and records + events + since < 1e15 then return tonumber(records), tonumber(events), since end
end

local function event_weight(fields) return math.max(#table.concat(fields) + 64, RULES.event_least) end

-- What the events weigh, where the script itself has written the sums.
local TOLD_NOW = 0

local REPLY = INSIDE()

if GREW == 0 and TOLD == 0 and TOLD_NOW <= RULES.event_bytes then return REPLY end
local kept = redis.pcall('HGET', META, 'weighs')
local records, events, since = sums(type(kept) == 'string' and kept)
if not records then return REPLY end
events = events + TOLD
if events > RULES.event_bytes then
  -- The oldest go, and some more than must, so that it is not to be done each time.
  local goal, oldest = RULES.event_bytes - math.floor(RULES.event_bytes / 64), nil
  repeat
    oldest = call('XRANGE', EVENTS, '-', '+', 'COUNT', 101)
    local first = 1
    while events > goal and oldest[first + 1] do
      events = events - event_weight(oldest[first][2])
      first = first + 1
    end
    if oldest[first] then call('XTRIM', EVENTS, 'MINID', oldest[first][1]) end
  until events <= goal or not oldest[2]
end
-- A sum below zero is none, and so counted anew.
call('HSET', META, 'weighs', text(records + GREW) .. ' ' .. text(events) .. ' ' .. since)
return REPLY
