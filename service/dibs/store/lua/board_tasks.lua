-- board_tasks.lua: what a board shows of tasks: those that are named, or of those that nobody has the first of
-- one kind; and how many there are of each kind. Changes nothing.
--
-- ARG.kind: '' for those that are named; ready | blocked, in the order of `next`; failed and free (somebody
--   had it, nobody wrote it down), the last to end leading; on-hold, the first hold to end leading
-- ARG.most tasks of a kind to give
-- ARG.tasks, from AT.tasks on: those that are named
--
-- {'tasks', now, hold of the project as JSON | '', {kind, how many at most, …}, how many of ARG.kind,
--   damaged, {view | '', rank | '', needs not done, need, state…}…}
--   how many: of those that are free .most + 1 at most   rank: where it stands in the order of `next`
--   Of the needs that are not done the first few are named.
-- Safe to run twice: it only reads. O(tasks × needs), of a kind at most SCAN tasks.
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
-- There may be more. Those that are free are among others in their index, so that they are not counted.
if kind and found > most then
  found = ARG.kind == 'free' and most + 1 or math.max(found, call('ZCARD', kind.index))
end
reply[5] = text(found)
return reply
