-- sums.lua: the counts in META: lapses, breaks, tickets, and the sizes of the records and events of the project.
-- Wraps the script, which runs at INSIDE; then this file writes the sums, and drops the oldest events if their size is
-- over its limit.

-- Increment a count in META and return it. A count that cannot be read begins again at `anew`.
local function increment(field, anew)
  local so_many = redis.pcall('HINCRBY', META, field, 1)
  if type(so_many) == 'number' and so_many > 0 and so_many < 1e15 then return so_many end
  call('HSET', META, field, anew)
  return tonumber(anew)
end

-- Parse the sums in META: the sizes of records and events, and when they were counted; nil if they cannot be read.
-- Then the sweep counts them again.
local function read_sums(kept)
  local records, events, since = string.match(kept or '', '^(%d+) (%d+) (%d+)$')
  if since and records + events + since < 1e15 then return tonumber(records), tonumber(events), since end
end

local function event_weight(fields) return math.max(#table.concat(fields) + 64, RULES.event_least) end

-- The size of the events, if the script itself has written the sums.
local EVENTS_WEIGH = 0

-- Return the new sums, for a script that writes them to META together with other fields.
local function take_sums(records, events, since)
  EVENTS_WEIGH = events + EVENTS_GREW
  local sums = text(records + RECORDS_GREW) .. ' ' .. text(EVENTS_WEIGH) .. ' ' .. since
  RECORDS_GREW, EVENTS_GREW = 0, 0
  return sums
end

-- If the events exceed their limit, drop the oldest, down to 63/64 of the limit, so that not every run drops some.
-- Returns the size of the events that remain.
local function trim_events(events)
  if events <= RULES.event_bytes then return events end
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
  return events
end

local REPLY = INSIDE()

if RECORDS_GREW == 0 and EVENTS_GREW == 0 and EVENTS_WEIGH <= RULES.event_bytes then return REPLY end
local kept = redis.pcall('HGET', META, 'weighs')
local records, events, since = read_sums(type(kept) == 'string' and kept)
if not records then return REPLY end
events = trim_events(events + EVENTS_GREW)
-- A sum below zero cannot be parsed, so the sweep counts again.
call('HSET', META, 'weighs', text(records + RECORDS_GREW) .. ' ' .. text(events) .. ' ' .. since)
return REPLY
