-- claim.lua: take a task, the first free of several, or all of several.
--
-- ARG.mode: one | any | all | next    .ttl_ms: '' for the default or the claim's own
-- ARG.tag: one that the next task is to have, or '' (mode next only)
-- ARG.reopen: 1 | ''           .queue: 1 | '' (mode one only)
-- ARG.closed: '' | full | unsafe | address, why nothing new may be granted now; what is ours goes on
-- ARG.place: hash of the address that it counts for, or ''
-- ARG.label  .branch  .url  .note
-- ARG.tasks, from AT.tasks on, in the caller's order, behind each its skeleton (see likeness.py), '' for
--   its lower case
--
-- {'granted', now, losses, n, view…}   n of the views (the first ones) are new, the others were ours
-- {'refused', now, losses, {verdict, view, free_in_ms, need, view of it…}…}
--   verdict: held | cooling | done | turn | blocked, by needs that are not done
-- {'nothing', now, losses, free_in_ms | '', held, parked, blocked, cooling}   no task is ready
-- {'damaged', now, losses, task}   nobody can read the record of this one; nothing was granted
-- {'quota', now, losses, 'session' | 'project' | 'address' | 'bytes' | 'queue', limit}
-- {'address', now}   it would have been granted, and the address has to wait
-- {'full', now, losses}   there is no room for a new claim or ticket; nothing was granted
-- {'unsafe', now}   it would have been, and no loss is told, because nobody hears of this reply
-- {'rate-limited', now, wait_ms, 'session' | 'project'}   {'stalled', now}
--   that of the project only for what is not ours: a renewal passes
--
-- Safe to run twice: the second run finds the claim ours and renews it, same fence.
-- O(tasks × log live claims of the project + tickets of a refused task).
--- @include common.lua
--- @include listing.lua
--- @include tenure.lua

local mode, ttl_ms = ARG.mode, tonumber(ARG.ttl_ms)
local reopen, queue = ARG.reopen == '1', ARG.queue == '1'
local closed, place = ARG.closed, ARG.place
local label, branch, url, note = ARG.label, ARG.branch, ARG.url, ARG.note

-- A write that changes nothing, before any other: a full store refuses it, and so new claims first.
if closed ~= '' then
  ROOM = false
elseif ROOM == nil then
  look_for_room(redis.pcall('SET', PREFIX .. ':nothing', '', 'XX'))
end

-- What stands between SESSION and `task`, which is settled: nil (free), 'mine', 'damaged', or a refusal and
-- when it ends. Then the tickets whose window passed, if any, and when the next one's begins.
local function verdict(task, rec)
  if rec.state == nil then return nil end
  if rec.damaged then return 'damaged' end
  if rec.owner == SESSION and (live(rec) or revivable(rec)) then return 'mine' end
  if live(rec) then return 'held', rec.due_at + RULES.grace_ms end
  if rec.state == 'done' and not reopen then return 'done', nil end
  if rec.listed and call('HEXISTS', MISSING, task) == 1 then return 'blocked', nil end
  if rec.state == 'listed' and not rec.queued then return nil end
  -- When anybody may take a task that nobody holds any more.
  local free_from = tonumber(rec.ended or '0')
  if rec.state == 'lapsed' then free_from = rec.due_at + RULES.grace_ms end
  if NOW < free_from then return 'cooling', free_from end
  if not rec.queued then return nil end
  -- Whose hand-over window is it? Windows follow one another from the moment the task became free,
  -- each ticket having one, also one that lapsed since; who lets theirs pass leaves the queue.
  local start, passed = math.max(free_from, tonumber(rec.turns_from or '0')), nil
  for _, ticket in ipairs(tickets(task, 'all')) do
    local ends = math.min(math.max(start, ticket.joined) + RULES.handover_ms, ticket.until_ms)
    if NOW < ends then
      if ticket.session ~= SESSION then return 'turn', ends, passed, start end
      return nil, nil, passed, start
    end
    start, passed = math.max(start, ends), passed or {}
    passed[#passed + 1] = ticket
  end
  return nil, nil, passed, start
end

-- The last fence given; and the names that look alike, by their field of META.
local FENCE, ALIKE = 0, {}

local function grant(task, rec, like, alike)
  local names, listed, kept = ALIKE[alike], '', task
  if names and names ~= task then
    -- `listed`: other names that the list shows. A few are enough: who makes up many may not make
    -- the rest costly.
    local all, shown = {}, {}
    for name in string.gmatch(names, '[^\n]+') do
      local other = load(name)
      if name ~= task and other.state then
        all[#all + 1] = name
        if state_now(name, other) ~= 'free' then shown[#shown + 1] = name end
      end
    end
    if #all < RULES.alike_kept then all[#all + 1] = task end
    listed, kept = table.concat(shown, '\n'), table.concat(all, '\n')
  end
  ALIKE[alike] = kept
  -- The last fence may be gone with a primary that was lost; what this service saw of time is not.
  FENCE = math.max(FENCE + 1, NOW_US, WITNESS_US)
  local ttl = ttl_ms or RULES.ttl_ms
  local fresh = {
    owner = SESSION, fence = text(FENCE), ttl = text(ttl), since = NOW_TEXT, beat = NOW_TEXT,
    due_at = NOW + math.min(ttl, RULES.max_hold_ms),
    label = label ~= '' and label or nil, branch = branch ~= '' and branch or nil,
    url = url ~= '' and url or nil, note = note ~= '' and note or nil,
    like = like ~= '' and like or nil, place = place ~= '' and place or nil,
    resembles = listed ~= '' and not rec.owner and listed or nil,
    grants = rec.owner and text(tonumber(rec.grants or '1') + 1), lapses = rec.lapses, queued = rec.queued, listed = rec.listed,
  }
  if rec.owner then
    fresh.last_owner, fresh.last_fence, fresh.last_outcome = rec.owner, rec.fence, rec.state
    fresh.last_label, fresh.last_note, fresh.last_ended = rec.label, rec.note, rec.ended
    if rec.state == 'lapsed' and rec.owner == SESSION then
      call('HDEL', LOST .. SESSION, task)
    elseif rec.state == 'lapsed' then
      note_loss(rec.owner, task, rec.fence, 'lapsed', NOW + RULES.retention_ms, {
        at = rec.ended, by_ref = string.sub(SESSION, 1, 10), by_label = label, note = note})
    end
  end
  if fresh.queued then
    redis.pcall('HDEL', PREFIX .. ':queue:' .. task, SESSION)
    if drop_tickets(task, fresh) == 0 then fresh.queued = nil end
  end
  transition(task, fresh, 'held', rec)
  return fresh
end

-- Put SESSION into the queue of `task`, or renew its ticket there; false where the queue is full.
local function enqueue(task, rec)
  local key, waiting = PREFIX .. ':queue:' .. task, tickets(task)
  local mine, order, joined
  for _, ticket in ipairs(waiting) do
    if ticket.session == SESSION then
      mine, order, joined = true, text(ticket.order), text(ticket.joined)
    end
  end
  if not mine then
    if #waiting >= RULES.tickets_per_task then return false end
    order, joined = text(count('tickets', NOW_TEXT)), NOW_TEXT
  end
  call('HSET', key, SESSION, order .. ' ' .. joined .. ' ' .. text(NOW + RULES.ticket_ms) .. ' ' .. label)
  call('PERSIST', key)  -- 0.1.0 let it end by itself
  if not rec.queued then
    rec.queued = '1'
    save_again(task, rec)
  end
  if not mine then
    call('SADD', PREFIX .. ':queued', task)
    tell('queued', task, {owner = SESSION, label = label, fence = rec.fence})
  end
  return true
end

local function over_share(wanted)
  local limit = RULES.claims_per_address
  return place ~= '' and limit > 0 and (number(call('HGET', PREFIX .. ':places', place)) or 0) + wanted > limit
end

local function over_quota(wanted)
  if call('SCARD', HELD .. SESSION) + wanted > RULES.claims_per_session then
    for _, task in ipairs(call('SMEMBERS', HELD .. SESSION)) do settle(task, meet(task)) end
    if call('SCARD', HELD .. SESSION) + wanted > RULES.claims_per_session then
      return 'session', RULES.claims_per_session
    end
  end
  if call('ZCARD', LIVE) + wanted > RULES.claims_per_project or over_share(wanted) then
    -- Overdue claims that nobody has settled yet must not count as live.
    for _, task in ipairs(call('ZRANGEBYSCORE', LIVE, '-inf', NOW, 'LIMIT', 0, 100)) do
      settle(task, meet(task))
    end
    if call('ZCARD', LIVE) + wanted > RULES.claims_per_project then
      return 'project', RULES.claims_per_project
    end
    if over_share(wanted) then return 'address', RULES.claims_per_address end
  end
end

local told = look_at_losses()
local free, mine, refused, damaged = {}, {}, {}, nil

-- Load a task and what stands between SESSION and it; windows that passed are written down.
local function look_at(task)
  local rec = meet(task)
  settle(task, rec)
  local word, free_at, passed, turns_from = verdict(task, rec)
  if passed then
    drop_tickets(task, rec, passed)
    rec.turns_from = text(turns_from)
    save_again(task, rec)
  end
  return rec, word, free_at
end

-- The claim that SESSION works on, the oldest; else the first task that is ready and that it may have:
-- the task, its record, the verdict. Else nil, and when one may be free.
local function find_next(index)
  local own, own_rec
  for _, task in ipairs(call('SMEMBERS', HELD .. SESSION)) do
    local rec = meet(task)
    settle(task, rec)
    local works = rec.owner == SESSION and rec.state == 'held'
    if works and (not own or tonumber(rec.fence) < tonumber(own_rec.fence)) then own, own_rec = task, rec end
  end
  if own then return own, own_rec, 'mine' end
  for _, task in ipairs(call('ZRANGEBYSCORE', LIVE, '-inf', NOW, 'LIMIT', 0, 100)) do settle(task, meet(task)) end
  local from, soonest = 0, nil
  repeat
    local page = call('ZRANGE', index, from, from + 49)
    for _, task in ipairs(page) do
      local rec, word, free_at = look_at(task)
      if word == nil or word == 'mine' then return task, rec, word end
      if free_at then soonest = math.min(soonest or free_at, free_at) end
    end
    from = from + 50
  until #page < 50 or from >= RULES.list_scan
  return nil, soonest
end

if mode == 'next' then
  local index = READY .. (ARG.tag ~= '' and ':' .. ARG.tag or '')
  local task, rec, word = find_next(index)
  if task then
    local choice = {task, rec, rec.like or ''}
    if word then mine[1] = choice else free[1] = choice end
  elseif OVER then
    return OVER
  else
    mark_told()
    local live_now, parked = call('ZCARD', LIVE), call('SCARD', PREFIX .. ':parked')
    local first = call('ZRANGE', LIVE, 0, 0, 'WITHSCORES')
    local soonest = rec or first[2] and tonumber(first[2]) + RULES.grace_ms
    return answer('nothing', told, soonest and text(math.max(0, soonest - NOW)) or '', text(live_now - parked),
                  text(parked), text(call('ZCARD', PREFIX .. ':blocked')),
                  text(call('ZCARD', index)))
  end
end

for i = AT.tasks, #ARGV, 2 do
  local task = ARGV[i]
  local rec, word, free_at = look_at(task)
  local choice = {task, rec, ARGV[i + 1]}
  if word == nil then
    free[#free + 1] = choice
  elseif word == 'mine' then
    mine[#mine + 1] = choice
  elseif word == 'damaged' then
    damaged = damaged or task
  else
    refused[#refused + 1] = {word, task, rec, free_at}
  end
  if mode == 'any' and word == 'mine' then break end
end

if mode == 'any' and #mine > 0 then free = {} end
if mode == 'any' and #free > 0 then free = {free[1]} end
local refusing = #refused > 0 and (mode == 'all' or #free + #mine == 0)

if OVER and (#free > 0 or refusing or damaged) then return OVER end

local grows = #free > 0 and not refusing or queue and refusing
if grows and REFUSAL then return REFUSAL end
if grows and closed == 'unsafe' then return answer('unsafe') end
if grows and closed == 'address' then return answer('address') end
mark_told()
-- Of several that would do, a damaged one is none.
if damaged and (mode ~= 'any' or #free + #mine + #refused == 0) then return answer('damaged', told, damaged) end
if grows and not ROOM then return answer('full', told) end

if refusing then
  local reply = {'refused', NOW_TEXT, told}
  for _, refusal in ipairs(refused) do
    local word, task, rec, free_at = unpack(refusal)
    if queue and word ~= 'done' and word ~= 'blocked' and not enqueue(task, rec) then
      return answer('quota', told, 'queue', text(RULES.tickets_per_task))
    end
    -- The queues of 32 tasks, of which nobody is told, would take a tenth of a second.
    local row = {word, view(task, rec, mode ~= 'one'), free_at and text(free_at - NOW) or ''}
    for need in each(word == 'blocked' and listing(task).needs) do
      local other = #row < 12 and load(need)
      if other and other.state ~= 'done' then
        row[#row + 1], row[#row + 2] = need, other.damaged and '' or view(need, other, true)
      end
    end
    reply[#reply + 1] = row
  end
  return reply
end

local whose, limit
if #free > 0 then whose, limit = over_quota(#free) end
if whose then return answer('quota', told, whose, text(limit)) end

local fields, kept = {'fence', 'weighs'}, {}
for i, choice in ipairs(free) do
  local like = choice[3]
  choice[4] = '~' .. (like ~= '' and like or string.lower(choice[1]))  -- see forget()
  fields[i + 2] = choice[4]
end
if #free > 0 then kept = call('HMGET', META, unpack(fields)) end
local records, events, since = sums(kept[2])
if (records or 0) + GREW >= RULES.record_bytes then
  return answer('quota', told, 'bytes', text(RULES.record_bytes))
end

local reply = {'granted', NOW_TEXT, told, text(#free)}
FENCE = number(kept[1]) or 0
if FENCE >= 2 ^ 53 - 1 then FENCE = 0 end  -- damaged: no reader of JSON is exact beyond that
for i, choice in ipairs(free) do ALIKE[choice[4]] = kept[i + 2] end
for i, choice in ipairs(free) do
  reply[#reply + 1] = view(choice[1], grant(unpack(choice)), nil, 'whole')
  if i == 1 and not kept[1] and not call('HGET', META, 'epoch') then
    -- No fence of this project is older than its epoch, and nothing was kept before; the sweep will see.
    call('HSET', META, 'epoch', text(FENCE))
    records, events, since = 0, 0, '0'
  end
end
for _, choice in ipairs(mine) do
  local task, rec = unpack(choice)
  keep(task, rec, {ttl_ms = ttl_ms, note = note, label = label, branch = branch, url = url})
  reply[#reply + 1] = view(task, rec, nil, 'whole')
end
if #free > 0 then
  -- One write for all that META keeps; the sums with it, where it has them.
  local write = {'fence', text(FENCE)}
  if records then
    TOLD_NOW = events + TOLD
    write[3], write[4] = 'weighs', text(records + GREW) .. ' ' .. text(TOLD_NOW) .. ' ' .. since
    GREW, TOLD = 0, 0
  end
  for alike, names in pairs(ALIKE) do write[#write + 1], write[#write + 2] = alike, names end
  call('HSET', META, unpack(write))
end
return reply
