-- sweep.lua: records lapses, so that people see them, and drops data that is past its retention.
-- Correctness does not depend on it: every act checks the deadline itself.
--
-- ARG.pressed: 1 if the store has little memory left, so that history is evicted; or ''
--
-- {'swept', now, more: 1 | '', gone: 1 | '', damaged, held, parked, review, lapsed, done, tickets, lapses, breaks}
--   gone: the store has no data of the project (any more)
--   damaged: tasks whose record cannot be read, MOST at most
--   held, parked, review, lapsed, done, tickets: how many there are now   lapses, breaks: how many ever
-- Safe to run twice: what was recorded or dropped is no longer due. O(log live claims + tickets)
-- when nothing is due, at most MOST of each kind a run; once in RULES.recount_ms the sizes of all
-- data are counted, RULES.recount_most tasks a run.
--- @include common.lua
--- @include record.lua
--- @include listing.lua
--- @include archive.lua
--- @include lookup.lua
--- @include sums.lua
--- @include losses.lua
--- @include tenure.lua
--- @include eviction.lua
--- @include holds.lua
--- @include queue.lua
--- @include recount.lua

local MOST, QUEUED = 100, PREFIX .. ':queued'
local more = ''

-- Return the first MOST members of an index that are due at `instant`.
local function due(index, instant)
  local found = call('ZRANGEBYSCORE', index, '-inf', instant, 'LIMIT', 0, MOST)
  if #found == MOST then more = '1' end
  return found
end

-- Add a task whose record cannot be read to a separate index, so that it does not block tasks that are due.
local function set_aside(task)
  bypass_oom_guard()
  call('ZADD', PREFIX .. ':damaged', 'NX', NOW_TEXT, task)
end

for _, task in ipairs(due(LIVE, NOW)) do
  local rec = load_current(task)
  if rec.damaged then
    set_aside(task)
    uncount_address(rec.place)
  end
  if not live(rec) then
    call('ZREM', LIVE, task)
  elseif overdue(rec) then
    record_lapse(task, rec)
  else
    bypass_oom_guard()
    call('ZADD', LIVE, text(rec.due_at), task)  -- a stall moved the deadline
  end
end

for index, kept_ms in pairs({
  [PREFIX .. ':lapsed'] = RULES.retention_ms, [PREFIX .. ':ended'] = RULES.retention_ms,
  [PREFIX .. ':done'] = RULES.done_retention_ms,
}) do
  for _, task in ipairs(due(index, NOW - kept_ms)) do
    local rec = load_current(task)
    if rec.damaged then set_aside(task) end
    if rec.owner and INDEX[rec.state] and not rec.damaged and not live(rec) then
      bypass_oom_guard()
      index_tenure(task, rec)  -- it is listed or on hold, and so kept
    end
    call('ZREM', index, task)
  end
end

-- A task that has been done for RULES.retention_ms is history and may be evicted, unless it is listed or on hold.
local filed_until = number(call('HGET', META, 'filed') or nil)
local filed = call('ZRANGEBYSCORE', PREFIX .. ':done', text(filed_until or 0), text(NOW - RULES.retention_ms), 'WITHSCORES', 'LIMIT', 0, MOST)
for i = 1, #filed, 2 do
  local rec = load(filed[i])
  if rec.state == 'done' and not (rec.listed or rec.hold) then
    bypass_oom_guard()
    index_tenure(filed[i], rec)
  end
end
if #filed > 0 then
  local last, is_full = tonumber(filed[#filed]), #filed == 2 * MOST
  if is_full then more = '1' end
  -- The next run reads the tasks of the last instant again, unless they filled this run.
  if is_full and last == filed_until then last = last + 1 end
  if last ~= filed_until then
    bypass_oom_guard()
    call('HSET', META, 'filed', text(last))
  end
end

-- An older dibs only kept an index of the tasks that have tenures, and counted smaller sizes.
local before = redis.pcall('ZRANGE', PREFIX .. ':past', 0, MOST - 1)
for _, task in ipairs(before) do
  bypass_oom_guard()
  for _, kept in ipairs(redis.pcall('LRANGE', TENURES .. task, 0, -1)) do
    local fence, ended = fence_of(kept), string.match(kept, '"ended":"(%d+)"')
    if fence and ended then index_tenure(task, {fence = fence, ended = ended}) end
  end
  call('ZREM', PREFIX .. ':past', task)
  call('HDEL', META, 'weighs')
end
if #before == MOST then more = '1' end

for _, member in ipairs(due(HISTORY, NOW - RULES.history_ms)) do
  local fence, task = string.match(member, '^(%d+) (.+)$')
  call('ZREM', HISTORY, member)
  if task then drop_archived(task, fence) end
end
if ARG.pressed == '1' then evict_until(function() return false end) end

for _, task in ipairs(due(ON_HOLD, NOW)) do
  local rec = load_current(task)
  if rec.damaged then set_aside(task) end
  take_off_hold(task, rec, '', '')
end
local project_hold = redis.pcall('HGET', META, 'hold')
if project_hold and not (type(project_hold) == 'string' and read_hold(project_hold)) then
  call('HDEL', META, 'hold')
  emit('off-hold', '', {}, 'reason', '', 'by', '')
  project_hold = nil
end

-- At this age a damaged record would be past its retention, be it that of a claim or of a done task.
local longest = math.max(RULES.done_retention_ms, RULES.max_hold_ms + RULES.retention_ms)
for _, task in ipairs(due(PREFIX .. ':damaged', NOW - longest)) do
  local rec = load_current(task)
  if rec.damaged then forget(task, rec) end
  call('ZREM', PREFIX .. ':damaged', task)
end

for _, ending in ipairs(due(PREFIX .. ':endings', NOW - RULES.retention_ms)) do
  call('ZREM', PREFIX .. ':endings', ending)
end
-- A repeat comes soon after the first call, so the newest ends are enough, even if a day has more.
local many = call('ZCARD', PREFIX .. ':endings') - RULES.endings_kept
if many > 0 then call('ZREMRANGEBYRANK', PREFIX .. ':endings', 0, math.min(many, 10 * MOST) - 1) end
if many > 10 * MOST then more = '1' end

for _, session in ipairs(due(PREFIX .. ':losers', NOW)) do
  local flat, first = redis.pcall('HGETALL', LOST .. session), nil
  for i = 1, #flat, 2 do
    local entry, kept_until = read_loss(flat[i + 1])
    if entry then
      first = math.min(first or kept_until, kept_until)
    else
      call('HDEL', LOST .. session, flat[i])
    end
  end
  bypass_oom_guard()
  if first then
    call('ZADD', PREFIX .. ':losers', text(first), session)
  else
    call('ZREM', PREFIX .. ':losers', session)
  end
end

-- A run checks MOST queues at most, chosen at random; the others are counted with their expired tickets.
local queued, looked_at, waiting = call('SMEMBERS', QUEUED), nil, 0
if #queued > MOST then
  looked_at = {}
  for _, task in ipairs(call('SRANDMEMBER', QUEUED, MOST)) do looked_at[task] = true end
end

-- Drop the expired tickets of `task`, and return how many valid ones there are.
local function clear_queue(task)
  local found, kept = tickets(task, 'all'), 0
  for _, ticket in ipairs(found) do
    if ticket.until_ms > NOW then kept = kept + 1 end
  end
  if kept < #found then
    local rec = load_current(task)
    if kept == 0 or live(rec) then drop_tickets(task, rec) end
  end
  if kept == 0 then
    bypass_oom_guard()
    call('SREM', QUEUED, task)
  end
  return kept
end

for _, task in ipairs(queued) do
  if not looked_at or looked_at[task] then
    waiting = waiting + clear_queue(task)
  else
    local many = redis.pcall('HLEN', PREFIX .. ':queue:' .. task)
    waiting = waiting + (type(many) == 'number' and many or 0)
  end
end

-- delivery.lua refuses deliveries whose change is older than that, so it does not need these.
redis.pcall('ZREMRANGEBYSCORE', PREFIX .. ':deliveries', '-inf', text(NOW - 8 * 86400000))

local live_now, parked = call('ZCARD', LIVE), call('SCARD', PREFIX .. ':parked')
local review = call('SCARD', PREFIX .. ':review')
local many_lapsed, many_done = call('ZCARD', PREFIX .. ':lapsed'), call('ZCARD', PREFIX .. ':done')
if live_now == 0 then call('DEL', PREFIX .. ':places') end
local damaged = call('ZRANGE', PREFIX .. ':damaged', 0, MOST - 1)
local kept = call('HMGET', META, 'lapses', 'breaks', 'fence', 'weighs')
local gone = ''

if more == '' and live_now + many_lapsed + many_done == 0 and EVENTS_GREW == 0 and call(
    'EXISTS', PREFIX .. ':ended', PREFIX .. ':endings', PREFIX .. ':losers', PREFIX .. ':queued',
    PREFIX .. ':damaged', PREFIX .. ':parked', PREFIX .. ':review', PREFIX .. ':listed',
    PREFIX .. ':deliveries', PREFIX .. ':past', HISTORY, ON_HOLD) == 0 and not project_hold then
  -- A later fence is larger even if the last one is forgotten, because it is at least the current time.
  if (number(kept[3]) or 0) < LATEST_US then
    call('DEL', META, EVENTS)
    gone, RECORDS_GREW = '1', 0
  end
elseif more == '' and (kept[3] or kept[4]) then
  local _, _, since = read_sums(kept[4])
  if NOW - (since or 0) > RULES.recount_ms and not recount_part() then more = '1' end
end

return answer('swept', more, gone, damaged, text(live_now - parked - review), text(parked), text(review), text(many_lapsed),
              text(many_done), text(waiting), text(number(kept[1]) or 0), text(number(kept[2]) or 0))
