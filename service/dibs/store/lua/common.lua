-- common.lua: what every script of a project starts with. It is put in front of each of them.
--
-- KEYS[1]  the project's key prefix, dibs:{project}: every key below has its hash tag, so each
--          script stays in one slot of a cluster
-- ARGV[1]  witness_us   the store's TIME when this service last saw the lease clock (tick.lua)
-- ARGV[2]  lost_us      time that did not count: outages and clock steps
-- ARGV[3]  stalls       where time was lost, "from-to:lost_us before" in lease ms, ascending:
--                       "17000-22000:0 90500-95500:4200000"
-- ARGV[4]  request      names one request of one client; the same again is a retry
-- ARGV[5]  session      hash of the session that asks, '' for nobody
-- RULES.…  a limit in ms or a count; the service writes the number in its place (rules.py)
--
-- Lease time = TIME - lost_us, in ms. All instants in records are lease time.
-- A script answers {tag, lease now in ms, ...}; numbers go out as text, because a Lua number
-- that leaves a script loses its fraction and one past 2^31 may leave as 1.7e+15.

local PREFIX, SESSION, REQUEST = KEYS[1], ARGV[5], ARGV[4]
local call = redis.call

local function text(number) return string.format('%d', number) end

-- TIME is read once: it moves while a script runs on some servers.
local time = call('TIME')
local NOW_US = tonumber(time[1]) * 1000000 + tonumber(time[2])
local WITNESS_US = tonumber(ARGV[1])
-- Nobody watched the clock for too long, or it jumped: the service must look (tick.lua) first.
local STALLED = math.abs(NOW_US - WITNESS_US) > RULES.stall_ms * 1000
local NOW = math.floor((math.max(NOW_US, WITNESS_US) - tonumber(ARGV[2])) / 1000)
local NOW_TEXT = text(NOW)

local STALLS = {}
for from, to in string.gmatch(ARGV[3], '(%d+)-(%d+):') do
  STALLS[#STALLS + 1] = {from = tonumber(from), to = tonumber(to)}
end

local META, LIVE = PREFIX .. ':meta', PREFIX .. ':live'
local LAPSED, DONE = PREFIX .. ':lapsed', PREFIX .. ':done'
local EVENTS = PREFIX .. ':events'
-- What was let through is paid for within burst_ms and a second.
local RATES, RATES_MS = PREFIX .. ':rates:', RULES.burst_ms + 2000
local PARKED, QUEUED = PREFIX .. ':parked', PREFIX .. ':queued'  -- for counting only
local function record_key(task) return PREFIX .. ':task:' .. task end
local function queue_key(task) return PREFIX .. ':queue:' .. task end
local function held_key(session) return PREFIX .. ':held:' .. session end
local function lost_key(session) return PREFIX .. ':lost:' .. session end

local function answer(tag, ...) return {tag, NOW_TEXT, ...} end

-- A full store refuses a script's first growing write, unless the script has written already.
-- Those who hold something go through here, so that they can keep and free it (rule 15).
local function let_holder_write() call('DEL', PREFIX .. ':nothing') end

-- GCRA: `paid` is the instant at which all that was let through is paid for.
-- Returns how long to wait in ms, and the instant to store when the request is let through.
local function admit(paid, per_second)
  paid = math.max(tonumber(paid or '0'), NOW_US)
  if paid > NOW_US + RATES_MS * 1000 then paid = NOW_US end  -- the clock went back
  local wait_us = paid - NOW_US - RULES.burst_ms * 1000
  return math.ceil(wait_us / 1000), text(paid + math.floor(1000000 / per_second))
end

-- Returns nil, or how long to wait in ms and for whose limit. Counts the request only when it passes.
-- What is paid lies in a hash for each span of RATES_MS, by session, the project's at '': nothing
-- matters after the span that follows, so a hash goes as a whole.
local function over_rate()
  local own, all = SESSION ~= '' and RULES.rate_per_session or 0, RULES.rate_per_project
  if own == 0 and all == 0 then return nil end
  local span = math.floor(NOW_US / (RATES_MS * 1000))
  local paid = call('HMGET', RATES .. span, SESSION, '')
  local own_paid, all_paid, begun = paid[1], paid[2], paid[2]
  if not own_paid or not all_paid then
    paid = call('HMGET', RATES .. span - 1, SESSION, '')
    own_paid, all_paid = own_paid or paid[1], all_paid or paid[2]
  end
  local wait_ms, own_next
  local all_next = NOW_TEXT
  if own > 0 then
    wait_ms, own_next = admit(own_paid, own)
    if wait_ms > 0 then return wait_ms, 'session' end
  end
  if all > 0 then
    wait_ms, all_next = admit(all_paid, all)
    if wait_ms > 0 then return wait_ms, 'project' end
  end
  -- pcall: on a full store the limit is the first thing to go, not the request.
  local kept = redis.pcall('HSET', RATES .. span, '', all_next, own_next and SESSION or '', own_next or all_next)
  if not begun and type(kept) == 'number' then call('PEXPIRE', RATES .. span, text(3 * RATES_MS)) end
end

-- A claim that was live when time was lost has at least one ttl from then on (rule 13). `written`
-- is when the instant was set: what was lost before that is in it already.
local function after_stalls(instant, span, written)
  for _, stall in ipairs(STALLS) do
    if instant > stall.from and written < stall.to then
      instant = math.max(instant, stall.to + span)
    end
  end
  return instant
end

-- A task's record is one JSON text, numbers in it text, too. `due_at` is worked out, not kept.
local function load(task)
  local kept = call('GET', record_key(task))
  if not kept then return {} end
  local rec = cjson.decode(kept)
  rec.due_at = after_stalls(tonumber(rec.due), tonumber(rec.ttl), tonumber(rec.beat))
  return rec
end

-- Write a record, to stay until it is written again; or for how long the options of SET say.
local function save(task, rec, ...)
  local due_at = rec.due_at
  rec.due_at = nil
  call('SET', record_key(task), cjson.encode(rec), ...)
  rec.due_at = due_at
end

local function live(rec) return rec.state == 'held' or rec.state == 'parked' end
local function overdue(rec) return live(rec) and rec.due_at <= NOW end
local function lapsed(rec) return rec.state == 'lapsed' or overdue(rec) end

local function state_now(rec)
  if lapsed(rec) then return 'lapsed' end
  if live(rec) or rec.state == 'done' then return rec.state end
  return 'free'
end

-- When anybody may take a task that nobody holds any more.
local function free_from(rec)
  if lapsed(rec) then return rec.due_at + RULES.grace_ms end
  return tonumber(rec.ended or '0')
end

-- Every ticket of a task's queue, oldest first.
local function all_tickets(task)
  local flat, found = call('HGETALL', queue_key(task)), {}
  for i = 1, #flat, 2 do
    local order, joined, until_ms, label = string.match(flat[i + 1], '^(%d+) (%d+) (%d+) (.*)$')
    found[#found + 1] = {
      session = flat[i], order = tonumber(order), joined = tonumber(joined),
      until_ms = after_stalls(tonumber(until_ms), RULES.ticket_ms, 0), label = label}
  end
  table.sort(found, function(a, b) return a.order < b.order end)
  return found
end

-- The tickets that were renewed in time: the others hold no place any more.
local function tickets(task)
  local found = {}
  for _, ticket in ipairs(all_tickets(task)) do
    if ticket.until_ms > NOW then found[#found + 1] = ticket end
  end
  return found
end

-- A record as JSON, '' for a task never claimed, with what only the store can tell: the deadline
-- after stalls, the queue. Comes last: it writes them into the record.
local function view(task, rec)
  if not rec.state then return '' end
  rec.task, rec.due, rec.due_at = task, text(rec.due_at), nil
  if rec.queued then
    local waiting = {}
    for _, ticket in ipairs(tickets(task)) do
      waiting[#waiting + 1] = ticket.session .. ' ' .. text(ticket.joined) .. ' ' .. ticket.label
    end
    rec.queue = table.concat(waiting, '\n')
  end
  return cjson.encode(rec)
end

-- One entry in the project's stream; only transitions are told, never a plain heartbeat.
local function tell(kind, task, rec, ...)
  call('XADD', EVENTS, 'MAXLEN', '~', text(RULES.events_kept), '*', 'type', kind, 'task', task,
       'at', NOW_TEXT, 'fence', rec.fence or '0', 'ref', string.sub(rec.owner or '', 1, 10),
       'label', rec.label or '', ...)
end

-- What a session no longer has. An entry stays for the retention, told or not, so that a late
-- heartbeat still hears why; `by` is the record of whoever has the task now.
local function note_loss(session, task, fence, reason, fields)
  local entry = {task = task, fence = fence, reason = reason, at = NOW_TEXT}
  for field, value in pairs(fields or {}) do entry[field] = value end
  call('HSET', lost_key(session), task, cjson.encode(entry))
  call('PEXPIRE', lost_key(session), RULES.retention_ms)
end

-- The passing of a deadline, written down once by whichever act meets it first.
local function settle(task, rec)
  if not overdue(rec) then return end
  let_holder_write()
  if rec.state == 'parked' then call('SREM', PARKED, task) end
  call('HINCRBY', META, 'lapses', 1)
  rec.state, rec.ended = 'lapsed', text(rec.due_at)
  rec.due = rec.ended
  rec.lapses = text(tonumber(rec.lapses or '0') + 1)
  save(task, rec, 'PX', RULES.retention_ms)
  call('ZREM', LIVE, task)
  call('ZADD', LAPSED, rec.ended, task)
  call('SREM', held_key(rec.owner), task)
  note_loss(rec.owner, task, rec.fence, 'lapsed', {open = '1'})
  tell('lapsed', task, rec, 'note', rec.note or '')
end

-- The deadline that a renewal gives: `span` from now, within max_hold of the start, never earlier
-- than the one the holder already has.
local function renewed(rec, span)
  local limit = tonumber(rec.since) + RULES.max_hold_ms
  return math.max(rec.due_at, math.min(NOW + span, limit))
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
  rec.due_at = renewed(rec, span)
  rec.due, rec.beat = text(rec.due_at), NOW_TEXT
  for _, field in ipairs({'note', 'label', 'branch', 'url'}) do
    if change[field] and change[field] ~= '' then rec[field] = change[field] end
  end
  if revived then rec.ended = nil end
  save(task, rec)
  call('ZADD', LIVE, rec.due, task)
  if revived then
    call('ZREM', LAPSED, task)
    call('SADD', held_key(SESSION), task)
    call('HDEL', lost_key(SESSION), task)
    tell('revived', task, rec)
  end
  if rec.state ~= was then call(rec.state == 'parked' and 'SADD' or 'SREM', PARKED, task) end
  if rec.state == 'parked' and was ~= 'parked' then tell('parked', task, rec, 'note', rec.note or '') end
  if rec.state == 'held' and was == 'parked' then tell('resumed', task, rec) end
end

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
  call('SREM', held_key(rec.owner), task)
  call('HDEL', lost_key(rec.owner), task)
  if outcome == 'done' then call('ZADD', DONE, rec.ended, task) end
end

-- Losses that SESSION has not heard of. A retry of the request that told them hears them again,
-- because its first reply may have been lost.
local function losses()
  if SESSION == '' then return {} end
  local flat, told = call('HGETALL', lost_key(SESSION)), {}
  for i = 1, #flat, 2 do
    local entry = cjson.decode(flat[i + 1])
    if not entry.open and (not entry.told or entry.told == REQUEST) then
      if not entry.told then
        entry.told = REQUEST
        let_holder_write()
        call('HSET', lost_key(SESSION), flat[i], cjson.encode(entry))
      end
      told[#told + 1] = cjson.encode(entry)
    end
  end
  return told
end

-- The tasks that SESSION holds, or held until they lapsed and nobody took them, sorted.
local function own_tasks()
  local tasks, seen = call('SMEMBERS', held_key(SESSION)), {}
  for _, task in ipairs(tasks) do seen[task] = true end
  local flat = call('HGETALL', lost_key(SESSION))
  for i = 1, #flat, 2 do
    if cjson.decode(flat[i + 1]).open and not seen[flat[i]] then tasks[#tasks + 1] = flat[i] end
  end
  table.sort(tasks)
  return tasks
end

-- Why SESSION does not hold `task`: {'lost', entry} or {'not-holder'}.
local function why_not(task)
  local entry = call('HGET', lost_key(SESSION), task)
  if entry then return 'lost', entry end
  return 'not-holder', ''
end

if STALLED then return answer('stalled') end
do
  local wait_ms, whose = over_rate()
  if wait_ms then return answer('rate-limited', text(wait_ms), whose) end
end
