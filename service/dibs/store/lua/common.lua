-- common.lua: the beginning of every script of a project: its arguments, the time, the keys, the check of memory,
-- and the rate limits. Functions that only some scripts need are in separate files, because a script creates all of
-- its functions again at each run.
--
-- KEYS[1]  the project's key prefix, dibs:{project}: every key below has its hash tag, so each
--          script stays in one slot of a cluster
-- ARG.observed_us       the store's TIME when this service last read the lease clock (tick.lua)
-- ARG.lost_us           time that lease time leaves out: outages and clock steps
-- ARG.stalls            where time was lost, "from-to:lost_us before" in lease ms, ascending:
--                       "17000-22000:0 90500-95500:4200000"
-- ARG.request           id of one request of one client; a call with the same id is a retry
-- ARG.session           hash of the calling session, '' for none
-- RULES.…  a limit in ms or a count; the service writes the number in its place (rules.py)
--
-- Lease time = TIME - lost_us, in ms. All instants in records are lease time.
-- A script returns {tag, current lease time in ms, ...}. It returns numbers as text, because a Lua
-- number loses its fraction in a reply, and one past 2^31 may become 1.7e+15.

local PREFIX, SESSION, REQUEST = KEYS[1], ARG.session, ARG.request
local call = redis.call

local function text(value) return string.format('%d', value) end

-- Parse a stored number: a text of 16 digits at most; nil for anything else.
local function number(kept)
  if kept and #kept <= 16 and string.find(kept, '^%d+$') then return tonumber(kept) end
end

-- TIME is read once: on some servers it advances while a script runs.
local time = call('TIME')
local NOW_US = tonumber(time[1]) * 1000000 + tonumber(time[2])
local OBSERVED_US = tonumber(ARG.observed_us)
-- No service read the lease clock for too long, or the store's clock jumped: tick.lua has to run first.
local STALLED = math.abs(NOW_US - OBSERVED_US) > RULES.stall_ms * 1000
-- The latest time that is known: the lower bound of a new fence, and the `epoch` of a new project.
local LATEST_US = math.max(NOW_US, OBSERVED_US)
local NOW = math.floor((LATEST_US - tonumber(ARG.lost_us)) / 1000)
local NOW_TEXT = text(NOW)

local STALLS = {}
for from, to in string.gmatch(ARG.stalls, '(%d+)-(%d+):') do
  STALLS[#STALLS + 1] = {from = tonumber(from), to = tonumber(to)}
end

-- Keys that most runs use.
local META, LIVE = PREFIX .. ':meta', PREFIX .. ':live'
local EVENTS = PREFIX .. ':events'
local RECORD = PREFIX .. ':task:'
local HELD = PREFIX .. ':held:'
local LOST = PREFIX .. ':lost:'

-- Other keys, built where they are used, after PREFIX:
--   :lapsed, :done, :ended    tasks whose last tenure lapsed, was done, or ended another way, by its end
--   :parked, :review          the tasks in these states, to count them
--   :queued                   the tasks that have a queue, for the sweep
--   :queue:TASK               its tickets
--   :losers                   sessions that lost a claim, by when the first of their losses may be dropped
--   :endings                  tenures that a call ended, "fence who task", by time; `who` is the ref of the
--                             session that ended it, or `broken`. A repeated call finds its first run here,
--                             even if another session has had the task since
--   :places                   the number of live claims of each address that is counted, by its hash
--   :damaged                  tasks whose record cannot be read, by when the sweep found it

-- Admitted calls are paid off within burst_ms plus one second. HOLDER_RATES: this script counts
-- against the rates of holders, which are separate from the rates of sessions that claim.
local HOLDER_RATES = RULES.holding == 1
local RATES, RATES_MS = PREFIX .. (HOLDER_RATES and ':rates:held:' or ':rates:'), RULES.burst_ms + 2000

local function answer(tag, ...) return {tag, NOW_TEXT, ...} end

-- A full store refuses a script's first growing write, unless the script has written already.
-- HAS_MEMORY: whether the store accepted that write; nil before it was tried. WRITE_ERROR: the error reply of
-- such a write that failed for another reason.
local HAS_MEMORY, WRITE_ERROR

-- Set both from the reply to the first growing write. The error of a full store reads "OOM …", "-OOM …"
-- or "@user_script: 7: -OOM …".
local function check_memory(reply)
  HAS_MEMORY, WRITE_ERROR = true, nil
  if type(reply) ~= 'table' or not reply.err then return end
  local said = string.match(reply.err, '%u%u[%u_]* [^\r\n]*') or reply.err
  HAS_MEMORY = false
  if not string.find(said, '^OOM ') then WRITE_ERROR = redis.error_reply(said) end
end

-- Test whether the store accepts a growing write, before any other write. A service that is `closed` to anything
-- new counts as out of memory, without a test. Returns HAS_MEMORY and WRITE_ERROR.
local function try_memory(closed)
  if closed ~= '' then
    HAS_MEMORY = false
  elseif HAS_MEMORY == nil then
    check_memory(redis.pcall('SET', PREFIX .. ':nothing', '', 'XX'))
  end
  return HAS_MEMORY, WRITE_ERROR
end

-- Write something that cannot grow: a full store accepts it and the writes that follow it. So holders can keep and
-- free what they hold (rule 15).
local function bypass_oom_guard() call('DEL', PREFIX .. ':nothing') end

-- Write to a key; delete a value of another type that is in the way. A write that a full store refuses is repeated
-- after bypass_oom_guard(), and the value of the key stays.
local function overwrite(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' then return reply end
  if string.find(tostring(reply.err), 'WRONGTYPE', 1, true) then call('DEL', key) else bypass_oom_guard() end
  return call(command, key, ...)
end

-- GCRA, a rate limit: `paid` is the instant at which all admitted calls are paid off.
-- Returns the wait in ms (0 or less: admit the call), and the value of `paid` after this call.
local function gcra(paid, per_second)
  paid = math.max(tonumber(paid or '0') or 0, NOW_US)
  if paid > NOW_US + RATES_MS * 1000 then paid = NOW_US end  -- the clock went back
  local wait_us = paid - NOW_US - RULES.burst_ms * 1000
  return math.ceil(wait_us / 1000), text(paid + math.floor(1000000 / per_second))
end

-- The refusal of a session that holds something while the project's rate is used up. A script returns
-- it only if the session requests something that it does not hold: other sessions never cause a
-- refusal of a holder (rule 18).
local RATE_LIMITED

-- Check both rates. Returns the wait in ms and whose limit it is; for an admitted call nil, nil, and what
-- records it: the key, the new `paid` of the project and of the session, and whether the key exists.
-- Each span of RATES_MS has one hash of `paid` by session, with the project's at ''. Its values
-- do not matter after the span that follows, so the whole hash expires.
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
    -- pcall: a full store gives up the rate limit, not the call.
    check_memory(
      redis.pcall('HSET', key, '', all_next, own_next and SESSION or '', own_next or all_next))
    if HAS_MEMORY and not begun then call('PEXPIRE', key, text(3 * RATES_MS)) end
  end
end
