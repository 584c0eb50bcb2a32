-- tick.lua: look at the lease clock. Every service process does so about once a second.
--
-- KEYS[1] the clock record   ARGV[1] run_id of the store   [2] longest gap that is not a stall, ms
-- ARGV[3] this process       [4] for how long it sweeps once chosen, ms
--
-- {witness_us, lost_us, stalls, sweeper: 1 | '', why: '' | first | restart | gap | back}
--
-- Lease time is the store's time while somebody watches it. When nobody could (the store was down
-- or paused, no service ran, the clock jumped ahead) the time between does not count, and the
-- instant is kept as a stall, "from-to:lost_us before" in lease ms: every claim that was live at
-- `from` has at least one ttl from `to` on. A clock that stepped back is the same with a negative
-- loss. So lease time never jumps and never goes back.
-- Safe to run twice: the second look finds no gap. O(1).

local MOST_STALLS = 32
local run_id, longest_us, process = ARGV[1], tonumber(ARGV[2]) * 1000, ARGV[3]
local function text(number) return string.format('%d', number) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local seen = redis.call('HMGET', KEYS[1], 'witness', 'lost', 'stalls', 'run_id', 'sweeper', 'sweeper_until')
local witness, lost, stalls = tonumber(seen[1]), tonumber(seen[2] or '0'), seen[3] or ''

local why = ''
if not witness then
  why = 'first'
elseif now < witness then
  why = 'back'
elseif now - witness > longest_us then
  why = 'gap'
elseif run_id ~= seen[4] then
  why = 'restart'
end
if why == 'gap' or why == 'restart' or why == 'back' then
  -- Scripts may have run for up to `longest` since the last look. So much counts as passed: lease
  -- time must not fall behind what they have seen.
  local passed = why == 'restart' and now - witness or longest_us
  local before, after = witness - lost, witness - lost + passed
  stalls = stalls .. ' ' .. text(math.floor(before / 1000)) .. '-' .. text(math.floor(after / 1000))
    .. ':' .. text(lost)
  lost = now - after
  local kept = {}
  for stall in string.gmatch(stalls, '%S+') do kept[#kept + 1] = stall end
  stalls = table.concat(kept, ' ', math.max(1, #kept - MOST_STALLS + 1))
end

local sweeper, sweeps_until = seen[5], tonumber(seen[6] or '0')
if sweeper == process or sweeps_until < now or sweeps_until > now + 60000000 then
  sweeper, sweeps_until = process, now + tonumber(ARGV[4]) * 1000
end
-- A full store refuses a script's first growing write; after one that cannot grow it lets this pass.
redis.call('HDEL', KEYS[1], 'nothing')
redis.call('HSET', KEYS[1], 'witness', text(now), 'lost', text(lost), 'stalls', stalls,
           'run_id', run_id, 'sweeper', sweeper, 'sweeper_until', text(sweeps_until))
return {text(now), text(lost), stalls, sweeper == process and '1' or '', why}
