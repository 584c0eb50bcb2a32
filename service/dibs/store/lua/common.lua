-- common.lua: what every script of a project starts with: its arguments, the time, the keys, memory, and rates.
-- Functions that only some need are in files that those name, because a script makes all of its functions anew
-- at each run.
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
-- As late as anybody knows it to be: the least that a new fence is, and the `epoch` of a new project.
local LATEST_US = math.max(NOW_US, OBSERVED_US)
local NOW = math.floor((LATEST_US - tonumber(ARG.lost_us)) / 1000)
local NOW_TEXT = text(NOW)

local STALLS = {}
for from, to in string.gmatch(ARG.stalls, '(%d+)-(%d+):') do
  STALLS[#STALLS + 1] = {from = tonumber(from), to = tonumber(to)}
end

-- The keys of most runs.
local META, LIVE = PREFIX .. ':meta', PREFIX .. ':live'
local EVENTS = PREFIX .. ':events'
local RECORD = PREFIX .. ':task:'
local HELD = PREFIX .. ':held:'
local LOST = PREFIX .. ':lost:'

-- Other keys, built where they are used, after PREFIX:
--   :lapsed, :done, :ended    tasks whose last tenure lapsed, was done, or ended another way, by when
--   :parked, :review, :queued tasks that are parked, in review, that have a queue; for counting only
--   :queue:TASK               its tickets
--   :losers                   sessions that lost something, by when the first of that may be forgotten
--   :endings                  ends that somebody asked for, "fence who task", by when; `who` is the ref of
--                             the session that ended it, or `broken`. A repeat finds its own there, though
--                             another session has had the task since
--   :places                   how many claims are live of each address that is counted, by its hash
--   :damaged                  tasks whose record nobody can read, by when the sweep met it

-- What was let through is paid for within burst_ms and a second. HOLDER_RATES: this script
-- has the rates of sessions that hold something, apart from those of sessions that claim.
local HOLDER_RATES = RULES.holding == 1
local RATES, RATES_MS = PREFIX .. (HOLDER_RATES and ':rates:held:' or ':rates:'), RULES.burst_ms + 2000

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

-- Try whether the store takes a growing write, before any other; not where the service is `closed` to what is new.
-- Returns whether it does, and the error that the write met for another reason.
local function try_memory(closed)
  if closed ~= '' then
    HAS_MEMORY = false
  elseif HAS_MEMORY == nil then
    check_memory(redis.pcall('SET', PREFIX .. ':nothing', '', 'XX'))
  end
  return HAS_MEMORY, WRITE_ERROR
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
      if not HOLDER_RATES then RATE_LIMITED = {'rate-limited', NOW_TEXT, text(wait_ms), 'project'} end
      all_next = all_paid
    end
  end
  return nil, nil, key, all_next, own_next, begun
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
