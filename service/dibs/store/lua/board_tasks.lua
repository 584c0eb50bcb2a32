-- board_tasks.lua: the tasks on a board: the named ones, and the first of one kind that nobody holds; and how many
-- there are of each kind. Changes nothing.
--
-- ARG.kind: '' for the named tasks alone; ready | blocked, in the order of `next`; failed and free (somebody had
--   it, it is not listed), the last to end first; on-hold, the first hold to end first
-- ARG.most tasks of the kind to return
-- ARG.tasks, from AT.tasks on: the named tasks
--
-- {'tasks', now, hold of the project as JSON | '', {kind, upper bound of its number, …}, number of ARG.kind,
--   damaged, {view | '', rank | '', number of unmet needs, need, state…}…}
--   number of ARG.kind: for free tasks .most + 1 at most   rank: its score in the order of `next`
--   Only the first NEEDS unmet needs are named.
-- Safe to run twice: it only reads. O(tasks × needs), at most SCAN tasks of a kind.
--- @include common.lua
--- @include record.lua
--- @include listing.lua

local KINDS = {
  failed = {index = FAILED, range = 'ZREVRANGE'}, free = {index = PREFIX .. ':ended', range = 'ZREVRANGE'},
  ready = {index = READY, range = 'ZRANGE'}, ['on-hold'] = {index = ON_HOLD, range = 'ZRANGE'},
  blocked = {index = PREFIX .. ':blocked', range = 'ZRANGE'},
}
local NEEDS, SCAN = 3, 1000
local states = {}

local function project_hold()
  local kept = redis.pcall('HGET', META, 'hold')
  local hold = type(kept) == 'string' and decode_texts(kept)
  if not hold or not number(hold.at) then return '' end
  return (not hold.until_ms or (number(hold.until_ms) or 0) > NOW) and kept or ''
end

local function sizes()
  local found = {}
  for kind, where in pairs(KINDS) do
    found[#found + 1], found[#found + 2] = kind, text(call('ZCARD', where.index))
  end
  return found
end

local reply = {'tasks', NOW_TEXT, project_hold(), sizes(), '0', {}}

local function state_of(need)
  if not states[need] then
    local rec = load(need)
    states[need] = rec.damaged and 'damaged' or rec.state and state_now(need, rec) or 'unknown'
  end
  return states[need]
end

local function add(task, rec)
  local row = {to_json(task, rec, nil, 'list'), '', '0'}
  local entry = rec.listed and listing(task)
  if entry then
    row[2], row[3] = rank(entry), call('HGET', MISSING, task) or '0'
    local left = math.min(NEEDS, number(row[3]) or 0)
    for need in each_line(left > 0 and entry.needs or '') do
      if left > 0 and state_of(need) ~= 'done' then
        row[#row + 1], row[#row + 2] = need, state_of(need)
        left = left - 1
      end
    end
  end
  reply[#reply + 1] = row
end

for i = AT.tasks, #ARGV do
  local rec = load(ARGV[i])
  if rec.damaged then table.insert(reply[6], ARGV[i]) else add(ARGV[i], rec) end
end

local kind, most, found, from = KINDS[ARG.kind], tonumber(ARG.most), 0, 0
while kind and from < SCAN and found <= most do
  local page = call(kind.range, kind.index, from, from + 199)
  for _, task in ipairs(page) do
    local rec = load(task)
    if rec.damaged then
      table.insert(reply[6], task)
    elseif rec.state and state_now(task, rec) == ARG.kind then
      found = found + 1
      if found <= most then add(task, rec) end
    end
  end
  from = #page < 200 and SCAN or from + 200
end
-- There may be more. The index of the free tasks has other tasks as well, so its size is not their number.
if kind and found > most then
  found = ARG.kind == 'free' and most + 1 or math.max(found, call('ZCARD', kind.index))
end
reply[5] = text(found)
return reply
