-- tasks.lua: write entries of the team's list, all of them or none.
--
-- ARG.dry: 1 to report what would change, and change nothing
-- ARG.closed: '' | full | unsafe, why nothing new may be stored now
-- ARG.entries, from AT.entries on: one JSON object of texts each: task; skeleton (confusables.py), '' if that is the
--   name in lower case; those of title, body, priority, needs, tags, url, source, attempts that the request gives
--   (lists with a line for each item), '' to clear one; drop: '1' takes the task off the list
--
-- {'listed', now, losses, 'created' | 'updated' | 'unchanged' | 'dropped' …}   one for each entry
-- {'cycle', now, losses, task…}   the first task needs the second, and so on, and the last the first; 1,000 at most
-- {'damaged', now, losses, task}   {'full', now, losses}   {'unsafe', now}   {'quota', now, losses, 'bytes', limit}
-- {'rate-limited', …}   {'stalled', now}
--
-- Claims, attempts and done tasks stay as they are. Safe to run twice: the second run changes nothing.
-- O(entries × needs + tasks that these need in turn).
--- @include common.lua
--- @include record.lua
--- @include listing.lua
--- @include archive.lua
--- @include lookup.lua
--- @include sums.lua
--- @include losses.lua
--- @include tenure.lua
--- @include eviction.lua

local told = read_losses()
local KEPT = {'title', 'priority', 'needs', 'tags', 'url', 'source', 'attempts'}
local entries, given = {}, {}
for i = AT.entries, #ARGV do
  local entry = cjson.decode(ARGV[i])
  entries[#entries + 1], given[entry.task] = entry, entry
end

-- Return the needs of a task after this call. A dropped task needs nothing until it is listed again.
local function needs_of(task)
  local entry, kept = given[task], listing(task)
  local needs = kept and (not kept.dropped or entry) and kept.needs
  if entry and entry.drop == '1' then needs = nil elseif entry and entry.needs then needs = entry.needs end
  local found = {}
  for need in each_line(needs or '') do found[#found + 1] = need end
  return found
end

-- Return a circle of needs that a path from `start` leads into, nil if there is none. `known` are tasks from
-- which no path leads into a circle.
local function circle(start, known)
  local path, on_path = {{task = start, needs = needs_of(start), at = 0}}, {[start] = 1}
  while #path > 0 do
    local last = path[#path]
    last.at = last.at + 1
    local need = last.needs[last.at]
    if not need then
      known[last.task], on_path[last.task] = true, nil
      path[#path] = nil
    elseif on_path[need] then
      local names = {}
      for i = on_path[need], #path do names[#names + 1] = path[i].task end
      return names
    elseif not known[need] then
      path[#path + 1] = {task = need, needs = needs_of(need), at = 0}
      on_path[need] = #path
    end
  end
end

local known = {}
for _, entry in ipairs(entries) do
  local kept = not entry.needs and listing(entry.task)
  local adds = entry.drop ~= '1' and (entry.needs or kept and kept.dropped)
  local names = adds and not known[entry.task] and circle(entry.task, known)
  if names then
    mark_losses_told()
    return answer('cycle', told, unpack(names, 1, math.min(#names, 1000)))
  end
end

-- Return the new and the current listing of an entry, and the change between them.
local function merged(entry)
  local old = listing(entry.task)
  if entry.drop == '1' then
    if not old or old.dropped then return old, old, 'unchanged' end
    local new = {}
    for field, value in pairs(old) do new[field] = value end
    new.dropped = '1'
    return new, old, 'dropped'
  end
  local new, changed = {order = old and old.order}, not old or old.dropped ~= nil
  for _, field in ipairs(KEPT) do
    local value = entry[field] or old and old[field] or field == 'priority' and USUAL or ''
    if value ~= '' then new[field] = value end
    if not old or (old[field] or '') ~= value then changed = true end
  end
  if entry.body and entry.body ~= (redis.pcall('GET', PREFIX .. ':text:' .. entry.task) or '') then changed = true end
  return new, old, not old and 'created' or changed and 'updated' or 'unchanged'
end

local function write_needs(task, old, new)
  local had, has = {}, {}
  for need in each_line(old and old.needs) do had[need] = true end
  for need in each_line(new.needs) do
    has[need] = true
    if not had[need] then call('SADD', PREFIX .. ':needed:' .. need, task) end
  end
  for need in pairs(had) do
    if not has[need] then call('SREM', PREFIX .. ':needed:' .. need, task) end
  end
  count_missing(task, new)
end

local function write_tags(task, old, new)
  local has = {}
  for tag in each_line(new.tags) do has[tag] = true end
  for tag in each_line(old and old.tags) do
    if not has[tag] then call('ZREM', READY .. ':' .. tag, task) end
  end
end

-- Add `task` to the names that resemble one another, so that a later claim of a similar name reports it (claim.lua).
local function write_similar(task, skeleton)
  local field, names = skeleton_field(task, skeleton), {}
  for name in each_line(call('HGET', META, field) or '') do
    if name ~= task then names[#names + 1] = name end
  end
  if #names < RULES.alike_kept then names[#names + 1] = task end
  call('HSET', META, field, table.concat(names, '\n'))
end

-- Encode a listing for the store, without a priority that is the usual one, as that of most tasks.
local function kept_listing(entry)
  local kept = {}
  for field, value in pairs(entry) do kept[field] = value end
  if kept.priority == USUAL then kept.priority = nil end
  return cjson.encode(kept)
end

local function write_text(key, kept)
  local was = redis.pcall('STRLEN', key)
  RECORDS_GREW = RECORDS_GREW + #kept - (type(was) == 'number' and was or 0)
  if kept ~= '' then call('SET', key, kept) else call('DEL', key) end
end

-- Return the bytes that an entry adds: its listing and its body; for a new task also its record and its place in
-- the list. Its entries in :needed are not counted.
local function growth(entry, old, new)
  local task = entry.task
  local grown = #kept_listing(new) - (old and #kept_listing(old) or 0)
  if entry.body then
    local was = redis.pcall('STRLEN', PREFIX .. ':text:' .. task)
    grown = grown + #entry.body - (type(was) == 'number' and was or 0)
  end
  return old and grown or grown + 200 + 5 * #task + record_weight(task, 60)
end

local function write(entry, old, new, what)
  local task, rec = entry.task, load_current(entry.task)
  local was_blocked = call('HEXISTS', MISSING, task)
  if not old then
    new.order = text(increment('order', '1'))
    RECORDS_GREW = RECORDS_GREW + 200 + 5 * #task
  end
  write_needs(task, old, new)
  write_tags(task, old, new)
  write_text(PREFIX .. ':listing:' .. task, kept_listing(new))
  if entry.body then write_text(PREFIX .. ':text:' .. task, entry.body) end
  call('ZADD', PREFIX .. ':listed', rank(new), task)
  local listed = new.dropped and 'dropped' or '1'
  if not rec.state then
    rec = {state = 'new', listed = listed, most = new.attempts, like = entry.skeleton ~= '' and entry.skeleton or nil}
    save(task, rec)
    write_similar(task, entry.skeleton)
  elseif rec.listed ~= listed or rec.most ~= new.attempts then
    rec.listed, rec.most = listed, new.attempts
    resave(task, rec)
  end
  local now = set_ready(task, rec, new)
  if old and now and call('HEXISTS', MISSING, task) ~= was_blocked then emit(now, task, {}) end
  emit(what == 'created' and 'listed' or what == 'dropped' and what or 'changed', task, {})
end

local plan, grows, grown = {}, false, 0
for i, entry in ipairs(entries) do
  local rec = load_current(entry.task)
  if rec.damaged then
    mark_losses_told()
    return answer('damaged', told, entry.task)
  end
  local new, old, what = merged(entry)
  plan[i] = {entry, old, new, what}
  if what ~= 'unchanged' then grown = grown + growth(entry, old, new) end
  grows = grows or what == 'created' or what == 'updated'
end

if grows and ARG.dry == '' then
  if ARG.closed == 'unsafe' then return answer('unsafe') end
  local has_memory, write_error = try_memory(ARG.closed)
  if write_error then return write_error end
  mark_losses_told()
  if not has_memory then return answer('full', told) end
  local weighed = (read_sums(call('HGET', META, 'weighs') or nil) or 0) + grown
  if grown < RULES.record_bytes then evict_history(weighed) end
  if weighed + RECORDS_GREW >= RULES.record_bytes then return answer('quota', told, 'bytes', text(RULES.record_bytes)) end
end

if grows and ARG.dry == '' and not call('HGET', META, 'epoch') then
  -- No fence of this project is older than its epoch; the sweep counts the sums.
  call('HSET', META, 'epoch', text(LATEST_US), 'weighs', '0 0 0')
end
for _, step in ipairs(plan) do
  -- Drop the records of needs that are past their retention, so that each counts once as unmet.
  if ARG.dry == '' and step[4] ~= 'unchanged' then
    for need in each_line(step[3].needs) do load_current(need) end
  end
end
mark_losses_told()
local reply = {'listed', NOW_TEXT, told}
for i, step in ipairs(plan) do
  reply[i + 3] = step[4]
  if ARG.dry == '' and step[4] ~= 'unchanged' then
    bypass_oom_guard()  -- a full store still takes a drop
    write(unpack(step))
  end
end
return reply
