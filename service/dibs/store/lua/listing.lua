-- listing.lua: the team's list: its tasks, their needs and their order; and the tasks that nobody may claim
-- because they failed too often or are on hold.
--
--   :listing:TASK   title, priority, order, needs, tags, … as one JSON object of texts; lists with a line for each item
--   :text:TASK      its body
--   :listed         all listed tasks, by rank
--   :ready          the tasks that may be claimed, by rank; :ready:TAG those with a tag
--   :blocked        the tasks that may be claimed once their needs are done, by rank
--   :missing        the number of unmet needs of each task that has any
--   :needed:TASK    its dependents: the tasks that need it
--   :failed         the tasks whose attempts are used up, listed or not, by the end of the last one
--   :on-hold        the tasks on hold, by the end of the hold; :holds who, why, and since when, as JSON.
--                   The hold of the project is in META, as `hold`
-- A listed task has a record from the beginning (record.lua): `listed` there is '1' or 'dropped', and the
-- state is 'new' if nobody ever had the task. A task on hold has one as well: `hold` is the end of the hold,
-- and stays until an act or the sweep ends the hold.

local READY, MISSING = PREFIX .. ':ready', PREFIX .. ':missing'
local HOLDS_KEPT, ON_HOLD, FAILED = PREFIX .. ':holds', PREFIX .. ':on-hold', PREFIX .. ':failed'
local NEVER, USUAL = text(2 ^ 53 - 1), '2'
local IDLE = {new = true, lapsed = true, released = true, abandoned = true, broken = true, rejected = true, retried = true}

-- Parse a stored listing; nil if it cannot be read.
local function read_listing(kept)
  local entry = type(kept) == 'string' and decode_texts(kept)
  if not entry then return end
  entry.priority = entry.priority or USUAL
  if number(entry.priority) and number(entry.order) then return entry end
end

-- Return the listing of a task; nil if it is not listed, or its listing cannot be read.
local function listing(task) return read_listing(redis.pcall('GET', PREFIX .. ':listing:' .. task)) end

-- Return the rank of a task: by priority, then by the order of listing; one number, exact below 2^53.
local function rank(entry) return text(entry.priority * 2 ^ 48 + entry.order) end

local function each_line(lines) return string.gmatch(lines or '', '[^\n]+') end

-- Add a task to the ready, blocked and failed tasks or remove it, by its current state. Returns 'ready',
-- 'blocked', or neither. `entry` is its listing, if the caller has it.
local function set_ready(task, rec, entry)
  local idle = IDLE[rec.state] == true and not rec.hold
  if idle and used_up(rec) then
    call('ZADD', FAILED, rec.ended, task)
    idle = false
  else
    call('ZREM', FAILED, task)
  end
  entry = rec.listed and (entry or listing(task))
  if not entry then return end
  idle = idle and rec.listed == '1'
  local blocked = call('HEXISTS', MISSING, task) == 1
  local indexes = {[READY] = idle and not blocked, [PREFIX .. ':blocked'] = idle and blocked}
  for tag in each_line(entry.tags) do indexes[READY .. ':' .. tag] = indexes[READY] end
  for index, there in pairs(indexes) do
    if there then call('ZADD', index, rank(entry), task) else call('ZREM', index, task) end
  end
  return idle and (blocked and 'blocked' or 'ready')
end

-- Count and store the unmet needs of a task.
local function count_missing(task, entry)
  local missing = 0
  for need in each_line(entry.needs) do
    if load(need).state ~= 'done' then missing = missing + 1 end
  end
  if missing > 0 then call('HSET', MISSING, task, text(missing)) else call('HDEL', MISSING, task) end
  return missing
end

local BLOCKED, AT_ONCE = PREFIX .. ':blocked', 500

-- Return whether a listing needs `task`. A dependent may not: its listing may have been damaged and written again.
local function needs(entry, task)
  return string.find('\n' .. (entry.needs or '') .. '\n', '\n' .. task .. '\n', 1, true) ~= nil
end

-- Count the unmet needs of `other` again; `was` is 'ready', 'blocked' or neither.
local function recount(other, entry, was)
  count_missing(other, entry)
  local now = set_ready(other, load(other), entry)
  if now and now ~= was then emit(now, other, {}) end
end

-- Update at most AT_ONCE dependents, with a few commands for all of them: a task may have thousands.
local function update_batch(others, task, by)
  local left, right, kind = READY, BLOCKED, 'blocked'
  if by < 0 then left, right, kind = BLOCKED, READY, 'ready' end
  local keys, counts, moves = {}, {}, {[left] = {}, [right] = {}}
  for i, other in ipairs(others) do keys[i] = PREFIX .. ':listing:' .. other end
  local kept, missing = call('MGET', unpack(keys)), call('HMGET', MISSING, unpack(others))
  local ranks, met = call('ZMSCORE', left, unpack(others)), {}
  for i, other in ipairs(others) do
    local entry, many = read_listing(kept[i]), number(missing[i] or '0')
    many = many and many + by
    if not entry or not needs(entry, task) then
      -- Its listing cannot be read, or does not need `task`.
    elseif not many or many < 0 then
      recount(other, entry, ranks[i] and (by < 0 and 'blocked' or 'ready'))
    else
      if many == 0 then met[#met + 1] = other else counts[#counts + 1], counts[#counts + 2] = other, text(many) end
      if many == (by < 0 and 0 or 1) and ranks[i] then
        local indexes = {left, right}
        for tag in each_line(entry.tags) do indexes[#indexes + 1] = READY .. ':' .. tag end
        for _, index in ipairs(indexes) do
          local moved = moves[index] or {}
          if index == left or index ~= right and by > 0 then
            moved[#moved + 1] = other
          else
            moved[#moved + 1], moved[#moved + 2] = ranks[i], other
          end
          moves[index] = moved
        end
        emit(kind, other, {})
      end
    end
  end
  if #counts > 0 then call('HSET', MISSING, unpack(counts)) end
  if #met > 0 then call('HDEL', MISSING, unpack(met)) end
  for index, moved in pairs(moves) do
    local leaves = index == left or index ~= right and by > 0
    if #moved > 0 then call(leaves and 'ZREM' or 'ZADD', index, unpack(moved)) end
  end
end

-- Update all dependents of `task`: it is done now (`by` is -1), no longer done (1), or was damaged (nil).
local function update_dependents(task, by)
  local all = redis.pcall('SMEMBERS', PREFIX .. ':needed:' .. task)
  for first = 1, by and #all or 0, AT_ONCE do
    update_batch({unpack(all, first, math.min(first + AT_ONCE - 1, #all))}, task, by)
  end
  for _, other in ipairs(by and {} or all) do
    local entry = listing(other)
    local was = call('HEXISTS', MISSING, other) == 1 and 'blocked' or 'ready'
    if entry and needs(entry, task) then recount(other, entry, was) end
  end
end
