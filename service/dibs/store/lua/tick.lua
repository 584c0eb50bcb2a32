-- tick.lua: read and advance the lease clock. Every service process does so about once a second.
--
-- KEYS[1] the clock record     ARG.run_id of the store   .gap_ms: the longest gap that is no stall
-- ARG.process: the caller's    .sweeper_ms: for how long a process sweeps once chosen
--
-- {observed_us, lost_us, stalls, sweeper: 1 | '', why: '' | first | restart | gap | back | turns | damaged}
--
-- Lease time follows the store's clock while a service reads it. Time in which none could (the store
-- was down or paused, no service ran, the clock jumped ahead) does not count. It is recorded as a
-- stall, "from-to:lost_us before" in lease ms: every claim that was live at `from` has at least one
-- ttl from `to` on. A clock that stepped back is a stall with a negative loss. So lease time never
-- jumps and never goes back.
--
-- If the clock record cannot be read, it begins again, and every live claim has one more ttl.
--
-- A new run_id means a restart, or another server. Behind some endpoints several servers answer in
-- turn: then every tick would look like a restart, and no claim would ever lapse. A restarted server
-- has a run_id that was never seen, so an id that returns within RECENT_US is no restart. After
-- RETURNS_MOST such returns in a row the servers take turns ('turns'): a known id no longer counts as
-- a restart, a new one still does. Until then each change counts, as it may be a failover and back.
-- Safe to run twice: the second run finds no gap. O(1).

local MOST_STALLS, MOST_RUNS = 32, 16
local RECENT_US, RETURNS_MOST = 30000000, 3
local run_id, longest_us, process = ARG.run_id, tonumber(ARG.gap_ms) * 1000, ARG.process
local function text(value) return string.format('%d', value) end

-- Parse a stored whole number: a text of 16 digits at most, and perhaps a minus; nil for anything else.
local function number(kept)
  if kept and #kept <= 17 and string.find(kept, '^%-?%d+$') then return tonumber(kept) end
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local seen = redis.call('HMGET', KEYS[1], 'witness', 'lost', 'stalls', 'run_id', 'sweeper',
                        'sweeper_until', 'runs', 'returns')
local witness, lost, stalls = number(seen[1]), number(seen[2] or '0'), seen[3] or ''
local damaged = seen[1] and not witness or not lost
lost = lost or 0
for stall in string.gmatch(stalls, '%S+') do
  local from, to, before = string.match(stall, '^(%d+)-(%d+):(%-?%d+)$')
  damaged = damaged or not (number(from) and number(to) and number(before))
end

-- A service whose store user may not read the run_id sees no restart, and must not undo what others recorded.
if run_id == '' then run_id = seen[4] or '' end

-- This run and those that were seen within RECENT_US, "run_id=when in µs" a line, the latest first; and how often
-- one of them came back, "count when in µs".
local runs, known = {run_id .. '=' .. text(now)}, false
for run, at in string.gmatch(seen[7] or '', '([^\n]+)=(%d+)') do
  if run == run_id then
    known = now - tonumber(at) < RECENT_US
  elseif now - tonumber(at) < RECENT_US and #runs < MOST_RUNS then
    runs[#runs + 1] = run .. '=' .. at
  end
end
local returns, returned = string.match(seen[8] or '', '^(%d+) (%d+)$')
returns = returned and now - tonumber(returned) < RECENT_US and tonumber(returns) or 0
local turns = run_id ~= seen[4] and known and returns >= RETURNS_MOST
if run_id ~= seen[4] and known then returns, returned = returns + 1, text(now) end

local why = ''
if damaged then
  why = 'damaged'
elseif not witness then
  why = 'first'
elseif now < witness then
  why = 'back'
elseif now - witness > longest_us then
  why = 'gap'
elseif turns then
  why = 'turns'
elseif run_id ~= seen[4] then
  why = 'restart'
end
if why == 'damaged' then
  stalls = '0-' .. text(math.floor((now - lost) / 1000)) .. ':' .. text(lost)
end
if why == 'gap' or why == 'restart' or why == 'back' then
  -- Scripts may have run for up to longest_us since the last tick. That span counts as passed: lease
  -- time must not fall behind the times that they have used.
  local passed = why == 'restart' and now - witness or longest_us
  local before, after = witness - lost, witness - lost + passed
  stalls = stalls .. ' ' .. text(math.floor(before / 1000)) .. '-' .. text(math.floor(after / 1000))
    .. ':' .. text(lost)
  lost = now - after
  local kept = {}
  for stall in string.gmatch(stalls, '%S+') do kept[#kept + 1] = stall end
  stalls = table.concat(kept, ' ', math.max(1, #kept - MOST_STALLS + 1))
end

local sweeper, sweeps_until = seen[5], number(seen[6]) or 0
if sweeper == process or sweeps_until < now or sweeps_until > now + 60000000 then
  sweeper, sweeps_until = process, now + tonumber(ARG.sweeper_ms) * 1000
end
-- A full store refuses a script's first growing write; after a write that cannot grow it accepts this one.
redis.call('HDEL', KEYS[1], 'nothing')
redis.call('HSET', KEYS[1], 'witness', text(now), 'lost', text(lost), 'stalls', stalls,
           'run_id', run_id, 'sweeper', sweeper, 'sweeper_until', text(sweeps_until),
           'runs', table.concat(runs, '\n'), 'returns', text(returns) .. ' ' .. (returned or '0'))
return {text(now), text(lost), stalls, sweeper == process and '1' or '', why}
