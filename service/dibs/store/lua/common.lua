-- common.lua: what every script of a project starts with. Functions that only some need are in files
-- that those name, because a script makes all of its functions anew at each run.
--
-- KEYS[1]  the project's key prefix, dibs:{project}: every key below has its hash tag, so each
--          script stays in one slot of a cluster
-- ARG.observed_us        the store's TIME when this service last saw the lease clock (tick.lua)
-- ARG.lost_us           time that did not count: outages and clock steps
-- ARG.stalls            where time was lost, "from-to:lost_us before" in lease ms, ascending:
--                       "17000-22000:0 90500-95500:4200000"
-- ARG.request           names one request of one client; the same again is a retry
-- ARG.session           hash of the session that asks, '' for nobody
-- RULES.…  a limit in ms or a count; the service writes the number in its place (rules.py)
--
-- Lease time = TIME - lost_us, in ms. All instants in records are lease time.
-- A script answers {tag, lease now in ms, ...}; numbers go out as text, because a Lua number
-- that leaves a script loses its fraction and one past 2^31 may leave as 1.7e+15.

local PREFIX, SESSION, REQUEST = KEYS[1], ARG.session, ARG.request
local call = redis.call

local function text(value) return string.format('%d', value) end

-- A number that is kept as text, 16 digits at most; nil for anything else.
local function number(kept)
  if kept and #kept <= 16 and string.find(kept, '^%d+$') then return tonumber(kept) end
end

-- TIME is read once: it moves while a script runs on some servers.
local time = call('TIME')
local NOW_US = tonumber(time[1]) * 1000000 + tonumber(time[2])
local OBSERVED_US = tonumber(ARG.observed_us)
-- Nobody watched the clock for too long, or it jumped: the service must look (tick.lua) first.
local STALLED = math.abs(NOW_US - OBSERVED_US) > RULES.stall_ms * 1000
local NOW = math.floor((math.max(NOW_US, OBSERVED_US) - tonumber(ARG.lost_us)) / 1000)
local NOW_TEXT = text(NOW)

local STALLS = {}
for from, to in string.gmatch(ARG.stalls, '(%d+)-(%d+):') do
  STALLS[#STALLS + 1] = {from = tonumber(from), to = tonumber(to)}
end

-- Keys that most runs need. The others are put together where they are needed, after PREFIX:
--   :lapsed, :done, :ended    tasks whose last tenure lapsed, was done, or was given up or broken, by when
--   :parked, :review, :queued tasks that are parked, in review, that have a queue; for counting only
--   :queue:TASK               its tickets
--   :losers                   sessions that lost something, by when the first of that may be forgotten
--   :endings                  ends that somebody asked for, "fence who task", by when; `who` is the ref of
--                             the session that gave the task up, or `broken`. A repeat finds its own
--                             there, whoever has had the task since
--   :places                   how many claims are live of each address that is counted, by its hash
--   :damaged                  tasks whose record nobody can read, by when the sweep met it
local META, LIVE = PREFIX .. ':meta', PREFIX .. ':live'
local EVENTS = PREFIX .. ':events'
-- What was let through is paid for within burst_ms and a second. Those who hold have rates apart from
-- those who claim.
local HOLDS = RULES.holding == 1
local RATES, RATES_MS = PREFIX .. (HOLDS and ':rates:held:' or ':rates:'), RULES.burst_ms + 2000
local RECORD = PREFIX .. ':task:'
local HELD = PREFIX .. ':held:'
local LOST = PREFIX .. ':lost:'

local function answer(tag, ...) return {tag, NOW_TEXT, ...} end

-- A full store refuses a script's first growing write, unless the script has written already.
-- HAS_MEMORY: it did not refuse that; nil while nobody tried. WRITE_ERROR: the error that such a write met
-- for another reason, as a reply.
local HAS_MEMORY, WRITE_ERROR

-- Look at what the first growing write came to. Servers say "OOM …", "-OOM …" and
-- "@user_script: 7: -OOM …".
local function check_memory(reply)
  HAS_MEMORY, WRITE_ERROR = true, nil
  if type(reply) ~= 'table' or not reply.err then return end
  local said = string.match(reply.err, '%u%u[%u_]* [^\r\n]*') or reply.err
  HAS_MEMORY = false
  if not string.find(said, '^OOM ') then WRITE_ERROR = redis.error_reply(said) end
end

-- Those who hold something go through here, so that they can keep and free it (rule 15).
local function bypass_oom_guard() call('DEL', PREFIX .. ':nothing') end

-- Write to a key; where something else lies there, that goes. A store without room refuses it as well: there
-- what lies there stays, and is added to.
local function overwrite(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' then return reply end
  if string.find(tostring(reply.err), 'WRONGTYPE', 1, true) then call('DEL', key) else bypass_oom_guard() end
  return call(command, key, ...)
end

-- GCRA: `paid` is the instant at which all that was let through is paid for.
-- Returns how long to wait in ms, and the instant to store when the request is let through.
local function gcra(paid, per_second)
  paid = math.max(tonumber(paid or '0') or 0, NOW_US)
  if paid > NOW_US + RATES_MS * 1000 then paid = NOW_US end  -- the clock went back
  local wait_us = paid - NOW_US - RULES.burst_ms * 1000
  return math.ceil(wait_us / 1000), text(paid + math.floor(1000000 / per_second))
end

-- The project's rate is used up: the answer for a session that holds something there, until it is
-- seen that it asks only for what it holds. A holder is never refused for what others do (rule 18).
local RATE_LIMITED

-- Returns how long to wait in ms and for whose limit; or nil, nil, and what counts the request: the key,
-- what is paid then by the project and by the session, and whether the key is there.
-- What is paid lies in a hash for each span of RATES_MS, by session, the project's at '': nothing
-- matters after the span that follows, so a hash goes as a whole.
local function check_rates()
  local own, all = SESSION ~= '' and RULES.rate_per_session or 0, RULES.rate_per_project
  if own == 0 and all == 0 then return nil end
  local span = math.floor(NOW_US / (RATES_MS * 1000))
  local key = RATES .. span
  local paid = call('HMGET', key, SESSION, '')
  local own_paid, all_paid, begun = paid[1], paid[2], paid[2]
  if not own_paid or not all_paid then
    paid = call('HMGET', RATES .. span - 1, SESSION, '')
    own_paid, all_paid = own_paid or paid[1], all_paid or paid[2]
  end
  local wait_ms, own_next
  local all_next = NOW_TEXT
  if own > 0 then
    wait_ms, own_next = gcra(own_paid, own)
    if wait_ms > 0 then return wait_ms, 'session' end
  end
  if all > 0 then
    wait_ms, all_next = gcra(all_paid, all)
    if wait_ms > 0 then
      local has_something = SESSION ~= ''
        and (call('SCARD', HELD .. SESSION) > 0 or call('EXISTS', LOST .. SESSION) == 1)
      if not has_something then return wait_ms, 'project' end
      if not HOLDS then RATE_LIMITED = {'rate-limited', NOW_TEXT, text(wait_ms), 'project'} end
      all_next = all_paid
    end
  end
  return nil, nil, key, all_next, own_next, begun
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

-- The states of a task that somebody has or had, and the index that has the task in each: ':live' by its
-- deadline, the others by its end. transition() in tenure.lua is what moves a task between them.
local INDEX = {
  held = ':live', parked = ':live', review = ':live', lapsed = ':lapsed', done = ':done',
  released = ':ended', abandoned = ':ended', broken = ':ended', rejected = ':ended', retried = ':ended',
}

local function live(rec) return INDEX[rec.state] == ':live' end
local function overdue(rec) return live(rec) and rec.due_at <= NOW end
local function lapsed(rec) return rec.state == 'lapsed' or overdue(rec) end

-- A tenure that ended so long ago counts as never known, whether the sweeper has been there or not.
-- No key ends by itself: a store whose policy is volatile-… would evict it before its time.
local function past_retention(rec)
  local ended = live(rec) and rec.due_at or tonumber(rec.ended)
  return ended ~= nil and ended + (rec.state == 'done' and RULES.done_retention_ms or RULES.retention_ms) <= NOW
end

-- But what is listed, or on hold, is kept.
local function forgettable(rec) return not (rec.listed or rec.hold) and past_retention(rec) end

-- What is kept as JSON is an object of texts, numbers in it text, too. nil for anything else.
local function decode_texts(kept)
  local read, found = pcall(cjson.decode, kept)
  if not read or type(found) ~= 'table' then return nil end
  for _, value in pairs(found) do
    if type(value) ~= 'string' then return nil end
  end
  return found
end

-- Whether all of a record is there that is counted with, and no number is past counting.
local function is_complete(rec)
  if rec.state == 'new' then return rec.listed or rec.hold end
  if not rec.owner or not (live(rec) or INDEX[rec.state] and rec.ended) then return false end
  local fence, ttl, since, beat, due = rec.fence or '', rec.ttl or '', rec.since or '', rec.beat or '', rec.due or ''
  local ended, grants, lapses = rec.ended or '0', rec.grants or '0', rec.lapses or '0'
  local turns_from, last_ended, failures = rec.turns_from or '0', rec.last_ended or '0', rec.failures or '0'
  return string.find(fence .. ' ' .. ttl .. ' ' .. since .. ' ' .. beat .. ' ' .. due .. ' ' .. ended .. ' '
      .. grants .. ' ' .. lapses .. ' ' .. turns_from .. ' ' .. last_ended .. ' ' .. failures,
      '^%d+ %d+ %d+ %d+ %d+ %d+ %d+ %d+ %d+ %d+ %d+$')
    and fence + ttl + since + beat + due + ended + grants + lapses + turns_from + last_ended + failures < 1e17
end

-- What is kept is weighed, in bytes: a record by its JSON and its task, whose name is in the key, in two
-- indexes and among those that look alike; an event by its fields (see emit()). META has the sums, as
-- `weighs`: "records events", and when they were counted last.
local function record_weight(task, size) return size + 5 * #task + 300 end

-- The length of each record that this run has met; and by how much it changed the sums, which nobody has
-- written down yet (see tenure.lua).
local RECORD_SIZES, RECORDS_GREW, EVENTS_GREW = {}, 0, 0

-- A task's record is one JSON text. `due_at` is worked out, not kept.
-- {} for a task that is not known; {gone = record} where only the record is still there;
-- {damaged = true, …} where nobody can read it, and so nobody knows who has the task.
local function load(task)
  local kept = redis.pcall('GET', RECORD .. task)
  if not kept then return {} end
  if type(kept) == 'table' and not string.find(kept.err, 'WRONGTYPE', 1, true) then call('GET', RECORD .. task) end
  if type(kept) == 'table' then kept = '' end
  RECORD_SIZES[task] = #kept
  local rec = decode_texts(kept)
  if not rec or not is_complete(rec) then
    local place, like = string.match(kept, '"place":"(%x+)"'), string.match(kept, '"like":"([^"\\]+)"')
    local left = {damaged = true, state = 'damaged', owner = '', due_at = 0, place = place, like = like}
    for name, value in string.gmatch(kept, '"([%l_]+)":"([^"]*)"') do
      if string.find(' branch pr last_branch last_pr ', ' ' .. name .. ' ', 1, true) then
        left[name] = string.gsub(value, '\\/', '/')
      end
    end
    return left
  end
  if rec.state == 'new' then return rec end
  rec.due_at = after_stalls(tonumber(rec.due), tonumber(rec.ttl), tonumber(rec.beat))
  if forgettable(rec) then return {gone = rec} end
  return rec
end

local function save(task, rec)
  local due_at = rec.due_at
  rec.due_at = nil
  local kept = cjson.encode(rec)
  call('SET', RECORD .. task, kept)
  rec.due_at = due_at
  local was = RECORD_SIZES[task]
  RECORDS_GREW = RECORDS_GREW + (was and #kept - was or record_weight(task, #kept))
  RECORD_SIZES[task] = #kept
end

-- Tenures that failed so far, and whether they, or `many`, are all that may; a deadline that has passed counts.
local function failures(rec) return tonumber(rec.failures or '0') + (overdue(rec) and 1 or 0) end
local function used_up(rec, many)
  if not many and not rec.failures and not overdue(rec) then return false end
  local most = tonumber(rec.most or '') or RULES.attempts
  return most > 0 and (many or failures(rec)) >= most
end

-- A person keeps it from being claimed: `hold` is until when.
local function on_hold(rec) return rec.hold ~= nil and (number(rec.hold) or 0) > NOW end

local function state_now(task, rec)
  if rec.state == 'done' or live(rec) and not overdue(rec) then return rec.state end
  if on_hold(rec) then return 'on-hold' end
  if used_up(rec) then return 'failed' end
  if lapsed(rec) and not past_retention(rec) then return 'lapsed' end
  if rec.listed ~= '1' then return 'free' end  -- or it was dropped from the list
  return call('HEXISTS', PREFIX .. ':missing', task) == 1 and 'blocked' or 'ready'
end

-- The tickets of a task's queue that were renewed in time, oldest first; the others hold no place
-- any more, and come only with `all`.
local function tickets(task, all)
  local flat, found = redis.pcall('HGETALL', PREFIX .. ':queue:' .. task), {}
  for i = 1, #flat, 2 do
    local order, joined, renewed, label = string.match(flat[i + 1], '^(%d+) (%d+) (%d+) ([^\n]*)$')
    local until_ms = after_stalls(tonumber(renewed or '0'), RULES.ticket_ms, 0)
    -- One that nobody can read is no ticket.
    if order and math.max(order, joined, renewed) < 1e16 and (all or until_ms > NOW) then
      found[#found + 1] = {
        session = flat[i], order = tonumber(order), joined = tonumber(joined),
        until_ms = until_ms, label = label}
    end
  end
  table.sort(found, function(a, b) return a.order < b.order end)
  return found
end

-- How many tickets of a task's queue were renewed in time, and the place of SESSION's, nil without.
local function count_tickets(task)
  local flat, orders, own = redis.pcall('HGETALL', PREFIX .. ':queue:' .. task), {}, nil
  for i = 1, #flat, 2 do
    local order, joined, renewed = string.match(flat[i + 1], '^(%d+) (%d+) (%d+) [^\n]*$')
    if order and math.max(order, joined, renewed) < 1e16
      and after_stalls(tonumber(renewed), RULES.ticket_ms, 0) > NOW then
      orders[#orders + 1] = tonumber(order)
      if flat[i] == SESSION then own = tonumber(order) end
    end
  end
  local place = own and 1
  for _, order in ipairs(orders) do
    if own and order < own then place = place + 1 end
  end
  return #orders, place
end

-- A record as JSON, '' for a task never claimed, with what only the store can tell: the deadline
-- after stalls, the queue; `counted`: only how long that is; `told`: with what is written down of it, its body too
-- where that is 'whole'.
local function to_json(task, rec, counted, told)
  if not rec.state then return '' end
  local due, due_at = rec.due, rec.due_at
  if rec.listed or rec.hold or rec.failures or overdue(rec) then rec.now = state_now(task, rec) end
  if on_hold(rec) then rec.kept_back = call('HGET', PREFIX .. ':holds', task) or nil end
  rec.task, rec.due, rec.due_at = task, due_at and text(due_at), nil
  if rec.listed and told then
    local listing = redis.pcall('GET', PREFIX .. ':listing:' .. task)
    local body = told == 'whole' and redis.pcall('GET', PREFIX .. ':text:' .. task)
    rec.listing, rec.body = type(listing) == 'string' and listing or nil, type(body) == 'string' and body or nil
  end
  if rec.queued and counted then
    local waiting, place = count_tickets(task)
    rec.waiting, rec.position = text(waiting), place and text(place)
  elseif rec.queued then
    local waiting = {}
    for _, ticket in ipairs(tickets(task)) do
      waiting[#waiting + 1] = ticket.session .. ' ' .. text(ticket.joined) .. ' ' .. ticket.label
    end
    rec.queue = table.concat(waiting, '\n')
  end
  local shown = cjson.encode(rec)
  rec.task, rec.due, rec.due_at = nil, due, due_at
  rec.now, rec.listing, rec.body, rec.kept_back = nil, nil, nil, nil
  if rec.queued then rec.queue, rec.waiting, rec.position = nil, nil, nil end
  return shown
end

-- One entry in the project's stream; only transitions are told, never a plain heartbeat. It weighs what
-- its names and values do and 64, and never so little that a project could have more than
-- RULES.events_kept of them.
local function emit(kind, task, rec, ...)
  local fence, ref, label = rec.fence or '0', string.sub(rec.owner or '', 1, 10), rec.label or ''
  call('XADD', EVENTS, '*', 'type', kind, 'task', task, 'at', NOW_TEXT, 'fence', fence, 'ref', ref,
       'label', label, ...)
  local weighs = 87 + #kind + #task + #NOW_TEXT + #fence + #ref + #label
  if ... then weighs = weighs + #table.concat({...}) end
  EVENTS_GREW = EVENTS_GREW + math.max(weighs, RULES.event_least)
end

if STALLED then return answer('stalled') end
do
  local wait_ms, whose, key, all_next, own_next, begun = check_rates()
  if wait_ms then return answer('rate-limited', text(wait_ms), whose) end
  if key then
    -- pcall: on a full store the limit is the first thing to go, not the request.
    check_memory(
      redis.pcall('HSET', key, '', all_next, own_next and SESSION or '', own_next or all_next))
    if HAS_MEMORY and not begun then call('PEXPIRE', key, text(3 * RATES_MS)) end
  end
end
