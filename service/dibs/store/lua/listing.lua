-- listing.lua: what the team wrote down: which tasks there are, what each needs, and which come next; and
-- which tasks nobody may claim, because they failed too often, or a person keeps them back.
--
--   :listing:TASK   title, priority, order, needs, tags, … as one JSON text of texts; lists with a line each
--   :text:TASK      its body
--   :listed         all that are listed, by rank
--   :ready          those that may be claimed, by rank; :ready:TAG those of them with a tag
--   :blocked        those that could be, if their needs were done
--   :missing        how many needs of a task are not done, where there are any
--   :needed:TASK    the tasks that need it
--   :failed         those whose attempts are used up, by when that was, listed or not
--   :on-hold        those that a person keeps back, by when that ends; :holds who, why, and since when, as
--                   JSON. For the project itself META has that, as `hold`
-- A task that is listed has a record as well (common.lua), from the first on: `listed` says so there
-- ('1', or 'dropped'), and 'new' is the state of one that nobody ever had. So does one that is kept back:
-- `hold` is until when, and stays until somebody has looked.

local READY, MISSING = PREFIX .. ':ready', PREFIX .. ':missing'
local HOLDS_KEPT, ON_HOLD, FAILED = PREFIX .. ':holds', PREFIX .. ':on-hold', PREFIX .. ':failed'
local NEVER = text(2 ^ 53 - 1)
local IDLE = {new = true, lapsed = true, released = true, abandoned = true, broken = true, retried = true}

-- What is written down of a task; nil where it is not listed, or nobody can read it.
local function listing(task)
  local kept = redis.pcall('GET', PREFIX .. ':listing:' .. task)
  local entry = type(kept) == 'string' and texts(kept)
  if entry and number(entry.priority) and number(entry.order) then return entry end
end

-- By priority, then by the order in which they were written down: one number, exact below 2^53.
local function rank(entry) return text(entry.priority * 2 ^ 48 + entry.order) end

local function each(lines) return string.gmatch(lines or '', '[^\n]+') end

-- Put a task among those that are ready, blocked or failed, or take it out, as it is now. Returns which it
-- is of the first two. `entry` is its listing, where the caller has it.
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
  for tag in each(entry.tags) do indexes[READY .. ':' .. tag] = indexes[READY] end
  for index, there in pairs(indexes) do
    if there then call('ZADD', index, rank(entry), task) else call('ZREM', index, task) end
  end
  return idle and (blocked and 'blocked' or 'ready')
end

-- Count how many needs of a task are not done.
local function count_missing(task, entry)
  local missing = 0
  for need in each(entry.needs) do
    if load(need).state ~= 'done' then missing = missing + 1 end
  end
  if missing > 0 then call('HSET', MISSING, task, text(missing)) else call('HDEL', MISSING, task) end
  return missing
end

-- `task` is done now (`by` is -1), or is not any more (1), or nobody knows what it was (nil).
local function tell_dependents(task, by)
  for _, other in ipairs(redis.pcall('SMEMBERS', PREFIX .. ':needed:' .. task)) do
    local entry = listing(other)
    -- One whose listing was damaged, and written anew, may need it no more.
    if entry and string.find('\n' .. (entry.needs or '') .. '\n', '\n' .. task .. '\n', 1, true) then
      local was_blocked = not by and call('HEXISTS', MISSING, other) == 1
      local left = by and redis.pcall('HINCRBY', MISSING, other, by)
      if type(left) ~= 'number' or left < 0 then
        left = count_missing(other, entry)
      elseif left == 0 then
        call('HDEL', MISSING, other)
      end
      if by and left == (by < 0 and 0 or 1) or not by and was_blocked ~= (left > 0) then
        local now = set_ready(other, load(other), entry)
        if now then tell(now, other, {}) end
      end
    end
  end
end
