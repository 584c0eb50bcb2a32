-- recount.lua: counts the sums of META again from the data, a part at each sweep. The sums may be wrong: an older dibs
-- does not keep them, and a script that met a key of another type ended before it wrote them.
--
-- META.recount, while a recount goes on: its progress and the bytes so far, as 'index rank bytes'. Meanwhile a new
-- entry joins the end of an index, and a dropped one moves those behind it forward: the total equals a count made at
-- once, except for tasks that move to an index that is still to be counted.

local INDEXES = {':live', ':lapsed', ':done', ':ended', ':damaged', ':listed', ':on-hold', ':history'}
local PAGE = math.min(100, RULES.recount_most)

-- Records of an older dibs are in no index of branches: add them, and count the bytes of all entries.
local IN_LOOKUPS = 0
local function find_again(task, field, value)
  add_lookup(task, field, value)
  IN_LOOKUPS = IN_LOOKUPS + lookup_weight(task, value)
end

-- Return whether `task` is in an index before this one, and so was counted.
local function is_met(at, task)
  for earlier = 1, at - 1 do
    if type(redis.pcall('ZSCORE', PREFIX .. INDEXES[earlier], task)) == 'string' then return true end
  end
  return false
end

-- Return the bytes of the listing and the body of a task.
local function listing_weight(task)
  local sum = 200 + 5 * #task
  for _, kind in ipairs({':listing:', ':text:'}) do
    local size = redis.pcall('STRLEN', PREFIX .. kind .. task)
    if type(size) == 'number' then sum = sum + size end
  end
  return sum
end

-- Return the bytes of a record and its archived tenures. :history has the task once for each tenure, by its `fence`:
-- the bytes count at the first tenure of the list.
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
    local page = redis.pcall('XRANGE', EVENTS, from, '+', 'COUNT', 500)  -- empty if it is no stream
    for _, entry in ipairs(page) do sum = sum + event_weight(entry[2]) end
    if #page > 0 then from = '(' .. page[#page][1] end
  until #page < 500
  return sum
end

-- Count one part, and store the progress. Returns whether that was the last part: then the sums are stored.
local function recount_part()
  bypass_oom_guard()
  local known = redis.pcall('HGET', META, 'recount')
  local at, rank, sum = string.match(type(known) == 'string' and known or '', '^(%d) (%d+) (%d+)$')
  at, rank, sum = tonumber(at) or 1, tonumber(rank) or 0, tonumber(sum) or 0
  local looked = 0
  while INDEXES[at] and looked < RULES.recount_most do
    local page = redis.pcall('ZRANGE', PREFIX .. INDEXES[at], rank, rank + PAGE - 1)  -- empty if it is no index
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
