-- sums.lua: what META counts: lapses, breaks, tickets, and what the records and events of the project weigh.
-- Wraps the script: it runs where INSIDE stands, then the sums are written, and the oldest events go where they weigh too much.

-- Count one more in META. A count that nobody can read begins anew, at `anew`.
local function increment(field, anew)
  local so_many = redis.pcall('HINCRBY', META, field, 1)
  if type(so_many) == 'number' and so_many > 0 and so_many < 1e15 then return so_many end
  call('HSET', META, field, anew)
  return tonumber(anew)
end

-- What META says that records and events weigh, and since when; nil where nobody can read it. Then the
-- sweep counts.
local function read_sums(kept)
  local records, events, since = string.match(kept or '', '^(%d+) (%d+) (%d+)$')
  if since and records + events + since < 1e15 then return tonumber(records), tonumber(events), since end
end

local function event_weight(fields) return math.max(#table.concat(fields) + 64, RULES.event_least) end

-- What the events weigh, where the script itself has written the sums.
local EVENTS_WEIGH = 0

-- The sums as META is to have them, for a script that writes them with what else it has for META.
local function take_sums(records, events, since)
  EVENTS_WEIGH = events + EVENTS_GREW
  local sums = text(records + RECORDS_GREW) .. ' ' .. text(EVENTS_WEIGH) .. ' ' .. since
  RECORDS_GREW, EVENTS_GREW = 0, 0
  return sums
end

-- Drop the oldest events where they weigh too much, and some more than must go, so that it is not to be done
-- each time. Returns what the events weigh then.
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
-- A sum below zero is none, and so counted anew.
call('HSET', META, 'weighs', text(records + RECORDS_GREW) .. ' ' .. text(events) .. ' ' .. since)
return REPLY
