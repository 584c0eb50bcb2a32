-- recount.lua: counts by their sizes what the sums of META should say, a part of it at each sweep. An older dibs knows of
-- no sums, and a script that met a key of another kind ended before it wrote them.
--
-- META.recount, while it goes on: how far it is, and what that weighs, as 'index rank bytes'. What comes meanwhile comes
-- at the end of an index, and what goes moves what follows it forward: both are counted as if it had been at once, but
-- for tasks that pass to an index whose turn is still to come.

local INDEXES = {':live', ':lapsed', ':done', ':ended', ':damaged', ':listed', ':on-hold', ':history'}
local PAGE = math.min(100, RULES.recount_most)

-- A record of an older dibs is in no index of branches.
local IN_LOOKUPS = 0
local function find_again(task, field, value)
  add_lookup(task, field, value)
  IN_LOOKUPS = IN_LOOKUPS + lookup_weight(task, value)
end

-- Whether `task` stands in an index before this one, and so was counted.
local function is_met(at, task)
  for earlier = 1, at - 1 do
    if type(redis.pcall('ZSCORE', PREFIX .. INDEXES[earlier], task)) == 'string' then return true end
  end
  return false
end

-- What is written down of a listed task.
local function listing_weight(task)
  local sum = 200 + 5 * #task
  for _, kind in ipairs({':listing:', ':text:'}) do
    local size = redis.pcall('STRLEN', PREFIX .. kind .. task)
    if type(size) == 'number' then sum = sum + size end
  end
  return sum
end

-- A record and its tenures. `fence` is that of one of them, by which history has the task once for each: it counts at
-- the first.
local function task_weight(task, fence)
  local sum, first = 0, nil
  for _, tenure in ipairs(redis.pcall('LRANGE', TENURES .. task, 0, -1)) do
    first = first or fence_of(tenure)
    sum = sum + tenure_weight(task, tenure)
  end
  if fence and first and fence ~= first then return 0 end
  local record = redis.pcall('GET', RECORD .. task)
  if type(record) ~= 'string' then return sum end
  each_lookup(task, decode_texts(record) or {}, find_again)
  return sum + record_weight(task, #record)
end

local function member_weight(at, member)
  local fence, task = nil, member
  if INDEXES[at] == ':history' then fence, task = string.match(member, '^(%d+) (.+)$') end
  local sum = INDEXES[at] == ':listed' and listing_weight(task) or 0
  if not task or is_met(at, task) then return sum end
  return sum + task_weight(task, fence)
end

local function events_weight()
  local sum, from = 0, '-'
  repeat
    local page = redis.pcall('XRANGE', EVENTS, from, '+', 'COUNT', 500)  -- none where it is no stream
    for _, entry in ipairs(page) do sum = sum + event_weight(entry[2]) end
    if #page > 0 then from = '(' .. page[#page][1] end
  until #page < 500
  return sum
end

-- Count a part, and write down how far it is. Returns whether that was the last: then the sums are as counted.
local function recount_part()
  bypass_oom_guard()
  local known = redis.pcall('HGET', META, 'recount')
  local at, rank, sum = string.match(type(known) == 'string' and known or '', '^(%d) (%d+) (%d+)$')
  at, rank, sum = tonumber(at) or 1, tonumber(rank) or 0, tonumber(sum) or 0
  local looked = 0
  while INDEXES[at] and looked < RULES.recount_most do
    local page = redis.pcall('ZRANGE', PREFIX .. INDEXES[at], rank, rank + PAGE - 1)  -- none where it is no index
    for _, member in ipairs(page) do sum = sum + member_weight(at, member) end
    looked, rank = looked + #page, rank + #page
    if #page < PAGE then at, rank = at + 1, 0 end
  end
  sum = sum + IN_LOOKUPS
  if INDEXES[at] then
    call('HSET', META, 'recount', text(at) .. ' ' .. text(rank) .. ' ' .. text(sum))
    return false
  end
  RECORDS_GREW, EVENTS_GREW, EVENTS_WEIGH = 0, 0, events_weight()
  call('HDEL', META, 'recount')
  call('HSET', META, 'weighs', text(sum) .. ' ' .. text(EVENTS_WEIGH) .. ' ' .. NOW_TEXT)
  return true
end
