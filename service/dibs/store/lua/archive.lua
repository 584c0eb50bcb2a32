-- archive.lua: the tenures of a task that are over. The latest is its record, until the next one begins or the
-- record is over; from then on it lies here, for as long as the history is kept.
--
--   :tenures:TASK   those before the record, the latest first, each as JSON
--   :history        "fence task" of each of them, by when it ended; and of each that is still a record, but of
--                   one that is kept because the task is listed or on hold, or that a day-old end has made history:
--                   it gives way where room is short (eviction.lua)

local TENURES, HISTORY = PREFIX .. ':tenures:', PREFIX .. ':history'

local function tenure_weight(task, kept) return #kept + 3 * #task + 300 end

-- Each is JSON that this script wrote, in which no value has a bare quote: so much is read without decoding.
local function fence_of(kept) return string.match(kept, '"fence":"(%d+)"') end
local function within_history(kept)
  local ended = number(string.match(kept, '"ended":"(%d+)"'))
  return ended ~= nil and ended + RULES.history_ms > NOW
end

local SPENT = {held = 'worked', parked = 'parked'}

-- How long a tenure was worked on, and parked, up to `up_to`; nil where it was held from its beginning to its
-- end. What was counted before `mark` is kept.
local function time_spent(rec, up_to)
  if not rec.mark then return nil, nil end
  local spent, field = {worked = number(rec.worked) or 0, parked = number(rec.parked) or 0}, SPENT[rec.state]
  if field then spent[field] = spent[field] + math.max(0, up_to - (number(rec.mark) or up_to)) end
  return text(spent.worked), text(spent.parked)
end

-- A tenure moves on to `to`: count for how long it was what it was. Nothing is written of one that was held from
-- its beginning to its end; time in review counts for neither, nor does time after an end, also where it goes on.
local function count_time(rec, to)
  local lives = live(rec)
  if lives and not rec.mark and INDEX[to] ~= ':live' then return end
  if not rec.mark then
    rec.mark = rec.since
    if not lives then rec.worked = text(math.max(0, rec.ended - rec.since)) end
  end
  local up_to = to == 'lapsed' and rec.due_at or NOW
  rec.worked, rec.parked = time_spent(rec, up_to)
  rec.mark = text(up_to)
end

local function tenure_json(rec)
  local due = overdue(rec)
  local worked, parked = time_spent(rec, due and rec.due_at or NOW)
  return cjson.encode({
    fence = rec.fence, ref = string.sub(rec.owner, 1, 10), label = rec.label, branch = rec.branch, url = rec.url,
    since = rec.since, ended = due and text(rec.due_at) or rec.ended, outcome = due and 'lapsed' or rec.was or rec.state,
    note = rec.note, pr = rec.pr, reason = rec.reason, by = rec.by, attempt = rec.attempt,
    worked = worked, parked = parked,
  })
end

-- Those of `task` that are over, the latest first, `most` at most.
local function tenures_of(task, rec, most)
  local found, last = {}, rec.gone or rec
  if last.owner and (not live(last) or overdue(last)) then found[1] = tenure_json(last) end
  for _, kept in ipairs(redis.pcall('LRANGE', TENURES .. task, 0, most - 1)) do
    if #found < most and within_history(kept) then found[#found + 1] = kept end
  end
  return found
end

-- Note that the history has the tenure that `rec` still is.
local function index_tenure(task, rec)
  local member = rec.fence .. ' ' .. task
  overwrite('ZADD', HISTORY, rec.ended, member)
end

-- Keep the tenure that `rec` was, which is over: the next one begins, or its record goes. With the record, if
-- there is to be one, they are no more than RULES.tenures_kept.
local function archive_tenure(task, rec, most)
  if rec.ended + RULES.history_ms <= NOW then return end
  local key, kept = TENURES .. task, tenure_json(rec)
  local many = overwrite('LPUSH', key, kept)
  index_tenure(task, rec)
  RECORDS_GREW = RECORDS_GREW + tenure_weight(task, kept)
  while many > most do
    local oldest = call('RPOP', key)
    RECORDS_GREW, many = RECORDS_GREW - tenure_weight(task, oldest), many - 1
    call('ZREM', HISTORY, (fence_of(oldest) or '') .. ' ' .. task)
  end
end

-- Drop one tenure of those before the record; returns whether it was there.
local function drop_archived(task, fence)
  local key = TENURES .. task
  for _, kept in ipairs(redis.pcall('LRANGE', key, 0, -1)) do
    if fence_of(kept) == fence then
      RECORDS_GREW = RECORDS_GREW - tenure_weight(task, kept)
      return call('LREM', key, -1, kept) > 0
    end
  end
  return false
end
