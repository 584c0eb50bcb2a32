-- claim.lua: take a task, the first free of several, or all of several.
--
-- ARG.mode: one | any | all | next    .ttl_ms: '' for the default or the claim's own
-- ARG.tag: a tag that the next task must have, or '' (mode next only)
-- ARG.reopen: 1 | ''           .queue: 1 | '' (mode one or any)
-- ARG.closed: '' | full | unsafe | address, why nothing new may be granted now; SESSION may still renew its claims
-- ARG.address_hash: hash of the address that the claims count for, or ''
-- ARG.label  .branch  .url  .note  .pr
-- ARG.tasks, from AT.tasks on, in the caller's order, each followed by its skeleton (confusables.py), '' if that
--   is the name in lower case
--
-- {'granted', now, losses, n, view…}   the first n views are new claims, the others are renewed
-- {'refused', now, losses, {reason, view, free_in_ms, need, view of it…}…}
--   reason: held | cooling | done | reserved | blocked, which alone has the unmet needs
-- {'refused', now, losses, {'on-hold', view, free_in_ms, 'task' | 'project', hold as JSON, task}…}
-- {'refused', now, losses, {'failed', view, '', tenure as JSON…}…}   the last three tenures
-- {'nothing', now, losses, free_in_ms | '', held, parked, review, blocked, on hold, failed, cooling}   no task is ready
-- {'waiting', now, losses, limit, parked, review, failed}   too many tasks wait for people (mode next only)
-- {'damaged', now, losses, task}   the record of this task cannot be read; nothing was granted
-- {'quota', now, losses, 'session' | 'project' | 'address' | 'bytes' | 'queue', limit}
-- {'address', now}   a claim would have been granted, but the address has to wait
-- {'full', now, losses}   there is no room for a new claim or ticket; nothing was granted
-- {'unsafe', now}   a claim would have been granted; it has no losses, because the caller does not get this reply
-- {'rate-limited', now, wait_ms, 'session' | 'project'}   {'stalled', now}
--   'project' only refuses tasks that SESSION does not hold: a renewal passes
--
-- Safe to run twice: the second run finds the claim of SESSION and renews it, with the same fence.
-- O(tasks × log live claims of the project + tickets of a refused task).
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
--- @include availability.lua

local mode, ttl_ms = ARG.mode, tonumber(ARG.ttl_ms)
local queue = ARG.queue == '1'
local closed, address_hash = ARG.closed, ARG.address_hash
local label, branch, url, note, pr = ARG.label, ARG.branch, ARG.url, ARG.note, ARG.pr

-- This comes before any other write: a full store refuses it, and so refuses new claims first (rule 15).
local has_memory, write_error = try_memory(closed)
local told = read_losses()

-- The choice: tasks to grant and claims to renew, as {task, rec, skeleton or '', its field of META}; refused tasks,
-- as {reason, task, rec, free_at, hold of the project as JSON}; the first task whose record cannot be read.
local free, mine, refused, damaged = {}, {}, {}, nil
-- From META: whether the project is new, its last fence, the names that resemble one another by field; its sums.
local is_new, FENCE, RESEMBLING = false, 0, {}
local records, events, since

-- 1. Choose. nothing_ready() is the answer of `next` when no task is ready.
local function nothing_ready(index, soonest)
  local live_now, parked = call('ZCARD', LIVE), call('SCARD', PREFIX .. ':parked')
  local review = call('SCARD', PREFIX .. ':review')
  local first = call('ZRANGE', LIVE, 0, 0, 'WITHSCORES')
  soonest = soonest or first[2] and tonumber(first[2]) + RULES.grace_ms
  local counts = {live_now - parked - review, parked, review}
  for _, each_index in ipairs({PREFIX .. ':blocked', ON_HOLD, FAILED, index}) do
    counts[#counts + 1] = call('ZCARD', each_index)
  end
  for i, many in ipairs(counts) do counts[i] = text(many) end
  return answer('nothing', told, soonest and text(math.max(0, soonest - NOW)) or '', unpack(counts))
end

-- Choose the next task for SESSION. Returns an answer if there is none.
local function choose_next()
  local index = READY .. (ARG.tag ~= '' and ':' .. ARG.tag or '')
  local task, rec, reason = find_next(index)
  if not task and RATE_LIMITED then return RATE_LIMITED end
  if not task then
    mark_losses_told()
    return nothing_ready(index, rec)
  end
  local choice = {task, rec, rec.like or ''}
  if reason then mine[1] = choice else free[1] = choice end
  if reason or RULES.waiting_most == 0 then return nil end
  local parked, failed = call('SCARD', PREFIX .. ':parked'), call('ZCARD', FAILED)
  local review = call('SCARD', PREFIX .. ':review')
  if parked + review + failed >= RULES.waiting_most then
    mark_losses_told()
    return answer('waiting', told, text(RULES.waiting_most), text(parked), text(review), text(failed))
  end
end

-- Sort the named tasks into `free`, `mine` and `refused`.
local function choose_named()
  for i = AT.tasks, #ARGV, 2 do
    local task = ARGV[i]
    local rec, reason, free_at = load_availability(task)
    local choice = {task, rec, ARGV[i + 1]}
    if reason == nil then
      free[#free + 1] = choice
    elseif reason == 'mine' then
      mine[#mine + 1] = choice
    elseif reason == 'damaged' then
      damaged = damaged or task
    else
      refused[#refused + 1] = {reason, task, rec, free_at}
    end
    if mode == 'any' and reason == 'mine' then break end
  end
  if mode == 'any' and #mine > 0 then free = {} end
  if mode == 'any' and #free > 0 then free = {free[1]} end
end

-- Read META for the free tasks; a hold of the project refuses them.
local function read_project()
  if #free == 0 then return end
  local fields = {'fence', 'weighs', 'hold'}
  for i, choice in ipairs(free) do
    choice[4] = skeleton_field(choice[1], choice[3])
    fields[i + 3] = choice[4]
  end
  local kept = call('HMGET', META, unpack(fields))
  is_new, FENCE = not kept[1], number(kept[1]) or 0
  if FENCE >= 2 ^ 53 - 1 then FENCE = 0 end  -- damaged: no reader of JSON is exact beyond that
  records, events, since = read_sums(kept[2])
  for i = 4, #fields do RESEMBLING[fields[i]] = kept[i] end
  local hold = kept[3] and read_hold(kept[3])
  if not hold then return end
  for _, choice in ipairs(free) do
    refused[#refused + 1] = {'on-hold', choice[1], choice[2], tonumber(hold.until_ms) or false, kept[3]}
  end
  free = {}
end

-- 2. Refuse. Return the answer if the rate of the project, the service, the store or a damaged record forbids this
-- call, else nil. Only lapses, ended holds and passed windows are written before this.
local function check_store(refusing)
  if RATE_LIMITED and (#free > 0 or refusing or damaged) then return RATE_LIMITED end
  local grows = #free > 0 and not refusing or queue and refusing
  if grows and write_error then return write_error end
  if grows and closed == 'unsafe' then return answer('unsafe') end
  if grows and closed == 'address' then return answer('address') end
  mark_losses_told()
  -- With any_of a damaged task is skipped if there is another one.
  if damaged and (mode ~= 'any' or #free + #mine + #refused == 0) then return answer('damaged', told, damaged) end
  if grows and not has_memory then return answer('full', told) end
end

-- Return the facts behind the refusal of a task: the hold, the last tenures, or the unmet needs.
local function refusal_facts(reason, task, rec, project_hold)
  local row = {}
  if reason == 'on-hold' then
    row = {project_hold and 'project' or 'task', project_hold or call('HGET', HOLDS_KEPT, task) or '', task}
  elseif reason == 'failed' then
    row = tenures_of(task, rec, 3)
  elseif reason == 'blocked' then
    local entry = listing(task)
    for need in each_line(entry and entry.needs) do
      local other = #row < 18 and load(need)
      if other and other.state ~= 'done' then
        row[#row + 1], row[#row + 2] = need, other.damaged and '' or to_json(need, other, true)
      end
    end
  end
  return row
end

-- Return the answer with each refused task and the reason; add SESSION to their queues if it asked for that.
local function refuse()
  if queue and not take_places(refused, label) then return answer('quota', told, 'queue', text(RULES.tickets_per_task)) end
  local reply = {'refused', NOW_TEXT, told}
  for _, refusal in ipairs(refused) do
    local reason, task, rec, free_at, project_hold = unpack(refusal)
    -- The queues of 32 tasks would take a tenth of a second, and the response leaves them out.
    local row = {reason, to_json(task, rec, mode ~= 'one'), free_at and text(free_at - NOW) or ''}
    for _, fact in ipairs(refusal_facts(reason, task, rec, project_hold)) do row[#row + 1] = fact end
    reply[#reply + 1] = row
  end
  return reply
end

-- 3. Limit.
local function over_address_limit(wanted)
  local limit = RULES.claims_per_address
  return address_hash ~= '' and limit > 0
    and (number(call('HGET', PREFIX .. ':places', address_hash)) or 0) + wanted > limit
end

-- Return whose limit `wanted` more claims would exceed, and the limit; nil if none.
local function over_quota(wanted)
  if call('SCARD', HELD .. SESSION) + wanted > RULES.claims_per_session then
    for _, task in ipairs(call('SMEMBERS', HELD .. SESSION)) do record_lapse(task, load_current(task)) end
    if call('SCARD', HELD .. SESSION) + wanted > RULES.claims_per_session then
      return 'session', RULES.claims_per_session
    end
  end
  if call('ZCARD', LIVE) + wanted > RULES.claims_per_project or over_address_limit(wanted) then
    -- Overdue claims must not count as live, even if no act has recorded their lapse yet.
    for _, task in ipairs(call('ZRANGEBYSCORE', LIVE, '-inf', NOW, 'LIMIT', 0, 100)) do
      record_lapse(task, load_current(task))
    end
    if call('ZCARD', LIVE) + wanted > RULES.claims_per_project then
      return 'project', RULES.claims_per_project
    end
    if over_address_limit(wanted) then return 'address', RULES.claims_per_address end
  end
end

-- Return an answer if a limit would be exceeded: of live claims, or of the size of the records after evicting history.
local function check_limits()
  local whose, limit
  if #free > 0 then whose, limit = over_quota(#free) end
  if whose then return answer('quota', told, whose, text(limit)) end
  if #free > 0 and records then evict_history(records) end
  if (records or 0) + RECORDS_GREW >= RULES.record_bytes then
    return answer('quota', told, 'bytes', text(RULES.record_bytes))
  end
end

-- 4. Grant and renew. Add `task` to the names that resemble one another. Returns the others that are in use (listed
-- or claimed), a line each, or nil. RULES.alike_kept bounds them, so that many invented names cost other calls little.
local function remember_similar(task, field)
  local names = RESEMBLING[field]
  RESEMBLING[field] = task
  if not names or names == task then return nil end
  local all, shown_names = {}, {}
  for name in string.gmatch(names, '[^\n]+') do
    local other = load(name)
    if name ~= task and other.state then
      all[#all + 1] = name
      if state_now(name, other) ~= 'free' then shown_names[#shown_names + 1] = name end
    end
  end
  if #all < RULES.alike_kept then all[#all + 1] = task end
  RESEMBLING[field] = table.concat(all, '\n')
  return shown_names[1] and table.concat(shown_names, '\n')
end

-- The last fence may be lost with a primary; the time that this service has seen is not.
local function next_fence()
  FENCE = math.max(FENCE + 1, LATEST_US)
  return text(FENCE)
end

-- Return the record of a new tenure; `rec` is the current record of the task.
local function new_tenure(rec, skeleton, similar)
  local ttl = ttl_ms or RULES.ttl_ms
  local fresh = {
    owner = SESSION, fence = next_fence(), ttl = text(ttl), since = NOW_TEXT, beat = NOW_TEXT,
    due_at = NOW + math.min(ttl, RULES.max_hold_ms),
    label = label ~= '' and label or nil, branch = branch ~= '' and branch or nil,
    url = url ~= '' and url or nil, note = note ~= '' and note or nil, pr = pr ~= '' and pr or nil,
    like = skeleton ~= '' and skeleton or nil, place = address_hash ~= '' and address_hash or nil,
    resembles = not rec.owner and similar or nil,
    grants = rec.owner and text(tonumber(rec.grants or '1') + 1), lapses = rec.lapses, queued = rec.queued,
    listed = rec.listed, most = rec.most,
    -- A done or failed task gets here by `reopen`, and its failures count from zero again.
    failures = rec.state ~= 'done' and not used_up(rec) and rec.failures or nil,
  }
  fresh.attempt = fresh.failures and text(fresh.failures + 1)
  return fresh
end

-- Archive the tenure `rec`, copy its facts to `fresh`, and record a loss if it lapsed and had another owner.
local function pass_on_previous(task, rec, fresh)
  archive_tenure(task, rec, RULES.tenures_kept - 1)
  fresh.last_owner, fresh.last_fence, fresh.last_outcome = rec.owner, rec.fence, rec.was or rec.state
  fresh.last_label, fresh.last_note, fresh.last_ended = rec.label, rec.note, rec.ended
  fresh.last_branch, fresh.last_url, fresh.last_pr = rec.branch, rec.url, rec.pr
  if rec.state == 'lapsed' and rec.owner == SESSION then
    call('HDEL', LOST .. SESSION, task)
  elseif rec.state == 'lapsed' then
    record_loss(rec.owner, task, rec.fence, 'lapsed', NOW + RULES.retention_ms, {
      at = rec.ended, by_ref = string.sub(SESSION, 1, 10), by_label = label, note = note})
  end
end

local function grant(task, rec, skeleton, field)
  local fresh = new_tenure(rec, skeleton, remember_similar(task, field))
  if rec.owner then pass_on_previous(task, rec, fresh) end
  if fresh.queued then
    redis.pcall('HDEL', PREFIX .. ':queue:' .. task, SESSION)
    if drop_tickets(task, fresh) == 0 then fresh.queued = nil end
  end
  pass_lookups(task, rec, fresh)
  transition(task, fresh, 'held', rec)
  return to_json(task, fresh, nil, 'whole')
end

local function grant_all(reply)
  for i, choice in ipairs(free) do
    reply[#reply + 1] = grant(unpack(choice))
    if i == 1 and is_new and not call('HGET', META, 'epoch') then
      -- No fence of this project is older than its epoch. The sums begin at zero, and the sweep counts them again.
      call('HSET', META, 'epoch', text(FENCE))
      records, events, since = 0, 0, '0'
    end
  end
end

local function renew_mine(reply)
  for _, choice in ipairs(mine) do
    local task, rec = unpack(choice)
    extend(task, rec, {ttl_ms = ttl_ms, note = note, label = label, branch = branch, url = url, pr = pr})
    reply[#reply + 1] = to_json(task, rec, nil, 'whole')
  end
end

-- Leave the queues of the other tasks once one is granted.
local function leave_other_queues()
  local has = (free[1] or mine[1])[1]
  for i = AT.tasks, #ARGV, 2 do
    if ARGV[i] ~= has and redis.pcall('HEXISTS', PREFIX .. ':queue:' .. ARGV[i], SESSION) == 1 then
      leave_queue(ARGV[i], load_current(ARGV[i]))
    end
  end
end

-- 5. Write all fields of META with one command, and the sums with them if they are known.
local function write_meta()
  local write = {'fence', text(FENCE)}
  if records then write[3], write[4] = 'weighs', take_sums(records, events, since) end
  for field, names in pairs(RESEMBLING) do write[#write + 1], write[#write + 2] = field, names end
  call('HSET', META, unpack(write))
end

-- The steps in order.
if mode == 'next' then
  local none = choose_next()
  if none then return none end
end
choose_named()
read_project()
local refusing = #refused > 0 and (mode == 'all' or #free + #mine == 0)
local stop = check_store(refusing)
if stop then return stop end
if refusing then return refuse() end
stop = check_limits()
if stop then return stop end
local reply = {'granted', NOW_TEXT, told, text(#free)}
grant_all(reply)
renew_mine(reply)
if queue and mode == 'any' then leave_other_queues() end
if #free > 0 then write_meta() end
return reply
