-- record.lua: the record of a task: how it is read, written and shown; and the events of a task.

-- Return a deadline after stalls: a claim that was live when time was lost has at least one ttl from then on
-- (rule 13). `written` is when the deadline was set: it already allows for earlier stalls.
local function after_stalls(instant, span, written)
  for _, stall in ipairs(STALLS) do
    if instant > stall.from and written < stall.to then
      instant = math.max(instant, stall.to + span)
    end
  end
  return instant
end

-- The states of a task that a session has or had, and the index for each: ':live' by its deadline, the others by
-- its end. Only transition() in tenure.lua moves a task between them.
local INDEX = {
  held = ':live', parked = ':live', review = ':live', lapsed = ':lapsed', done = ':done',
  released = ':ended', abandoned = ':ended', broken = ':ended', rejected = ':ended', retried = ':ended',
}

local function live(rec) return INDEX[rec.state] == ':live' end
local function overdue(rec) return live(rec) and rec.due_at <= NOW end
local function lapsed(rec) return rec.state == 'lapsed' or overdue(rec) end

-- Return whether a tenure is past its retention. Then it counts as unknown, whether or not the sweep has dropped
-- it. Records have no expiry: a store whose policy is volatile-… would evict them early.
local function past_retention(rec)
  local ended = live(rec) and rec.due_at or tonumber(rec.ended)
  return ended ~= nil and ended + (rec.state == 'done' and RULES.done_retention_ms or RULES.retention_ms) <= NOW
end

-- Return whether a record may be dropped: not while the task is listed or on hold.
local function forgettable(rec) return not (rec.listed or rec.hold) and past_retention(rec) end

-- Decode a stored JSON object, whose values are all texts (numbers, too); nil for anything else.
local function decode_texts(kept)
  local read, found = pcall(cjson.decode, kept)
  if not read or type(found) ~= 'table' then return nil end
  for _, value in pairs(found) do
    if type(value) ~= 'string' then return nil end
  end
  return found
end

-- Return whether a record has all numbers that scripts calculate with, and none is too large.
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

-- Sizes are estimated in bytes: a record by its JSON and its task, whose name is in the key, in two indexes and
-- among the names that it resembles; an event by its fields (see emit()). META has the sums, as `weighs`:
-- "records events when", the last being the time of the last count.
local function record_weight(task, size) return size + 5 * #task + 300 end

-- The length of each record that this run has read; and the changes of the sums that this run has not written
-- yet (see sums.lua).
local RECORD_SIZES, RECORDS_GREW, EVENTS_GREW = {}, 0, 0

-- A task's record is one JSON text at :task:TASK, an object of texts; instants and spans are in ms of lease time.
-- Fields that do not apply are absent. to_json() adds the fields of a view, and removes them again.
--
--   the current tenure of the task, or its last one
--     state            a key of INDEX; `new`: nobody ever had the task, which is listed or on hold
--     owner            hash of the session
--     fence            the number of the tenure
--     ttl              the span that a heartbeat gives
--     since, beat      when the claim was granted; when its deadline was last set
--     due              the deadline as it was set; `due_at`, which is not stored, is the deadline after stalls
--     ended            when the tenure ended; for a lapsed one its deadline
--     label, branch, url, note, pr   from its session
--     place            hash of the address that it counts for (elsewhere called address_hash)
--     anew             when it became work again after a review: max_hold counts from there
--     open_until       until when its pull request may be open: it does not lapse before
--     by, reason, sha, merged   who broke it or gave its verdict; why it was broken; the commit; '1' if merged
--     was              its state before a person let the task be tried again: `done`
--     mark, worked, parked      ms spent as held and as parked, counted up to `mark` (archive.lua)
--   the task, over all its tenures
--     grants, lapses   the number of its tenures (1 if absent), and of those that lapsed
--     failures         the number of failures since its last good end; attempt: the number of this try, absent
--                      for the first
--     listed           '1', or 'dropped' if the team took it off its list
--     most             its own max_attempts, called `attempts` in the listing
--     hold             the end of its hold, NEVER for no end
--     queued           '1' if its queue has tickets; turns_from: when their hand-over windows begin
--     like             its skeleton (confusables.py), if that is not its name in lower case
--     resembles        the names that it resembled when it was new, a line each
--   the previous tenure
--     last_owner, last_fence, last_outcome, last_ended, last_label, last_branch, last_url, last_note, last_pr
--
-- Load a record: {} for an unknown task; {gone = record} if it is past its retention, but not dropped yet;
-- {damaged = true, …} if it cannot be read, so that nobody knows who has the task.
local function load(task)
  local kept = redis.pcall('GET', RECORD .. task)
  if not kept then return {} end
  if type(kept) == 'table' and not string.find(kept.err, 'WRONGTYPE', 1, true) then call('GET', RECORD .. task) end
  if type(kept) == 'table' then kept = '' end
  RECORD_SIZES[task] = #kept
  local rec = decode_texts(kept)
  if not rec or not is_complete(rec) then
    local left = {damaged = true, state = 'damaged', owner = '', due_at = 0}
    left.place, left.like = string.match(kept, '"place":"(%x+)"'), string.match(kept, '"like":"([^"\\]+)"')
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

-- The failures of a task so far, and whether they, or `many`, use up its attempts; a passed deadline counts.
local function failures(rec) return tonumber(rec.failures or '0') + (overdue(rec) and 1 or 0) end
local function used_up(rec, many)
  if not many and not rec.failures and not overdue(rec) then return false end
  local max_attempts = tonumber(rec.most or '') or RULES.max_attempts
  return max_attempts > 0 and (many or failures(rec)) >= max_attempts
end

-- Return whether the task is on hold now.
local function on_hold(rec) return rec.hold ~= nil and (number(rec.hold) or 0) > NOW end

local function state_now(task, rec)
  if rec.state == 'done' or live(rec) and not overdue(rec) then return rec.state end
  if on_hold(rec) then return 'on-hold' end
  if used_up(rec) then return 'failed' end
  if lapsed(rec) and not past_retention(rec) then return 'lapsed' end
  if rec.listed ~= '1' then return 'free' end  -- or it was dropped from the list
  return call('HEXISTS', PREFIX .. ':missing', task) == 1 and 'blocked' or 'ready'
end

-- Return the tickets of a task's queue that were renewed in time, oldest first; with `all` also the
-- expired ones, which hold no place.
local function tickets(task, all)
  local flat, found = redis.pcall('HGETALL', PREFIX .. ':queue:' .. task), {}
  for i = 1, #flat, 2 do
    local order, joined, renewed, label = string.match(flat[i + 1], '^(%d+) (%d+) (%d+) ([^\n]*)$')
    local until_ms = after_stalls(tonumber(renewed or '0'), RULES.ticket_ms, 0)
    -- A ticket that cannot be read does not count.
    if order and math.max(order, joined, renewed) < 1e16 and (all or until_ms > NOW) then
      found[#found + 1] = {
        session = flat[i], order = tonumber(order), joined = tonumber(joined),
        until_ms = until_ms, label = label}
    end
  end
  table.sort(found, function(a, b) return a.order < b.order end)
  return found
end

-- Return how many tickets of a task's queue were renewed in time, and the place of SESSION, nil for none.
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

-- Return a record as JSON, '' for an unknown task, with facts that only the store has: the deadline after stalls, the
-- queue. counted: with the queue's length instead of its tickets. told: with the listing; 'whole' adds the body.
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

-- Add an event to the project's stream; only transitions are events, never a plain heartbeat. Its size is that of its
-- names and values plus 64, and at least RULES.event_least, so that a project keeps at most RULES.events_kept events.
local function emit(kind, task, rec, ...)
  local fence, ref, label = rec.fence or '0', string.sub(rec.owner or '', 1, 10), rec.label or ''
  call('XADD', EVENTS, '*', 'type', kind, 'task', task, 'at', NOW_TEXT, 'fence', fence, 'ref', ref,
       'label', label, ...)
  local weighs = 87 + #kind + #task + #NOW_TEXT + #fence + #ref + #label
  if ... then weighs = weighs + #table.concat({...}) end
  EVENTS_GREW = EVENTS_GREW + math.max(weighs, RULES.event_least)
end
