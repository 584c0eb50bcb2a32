-- archive.lua: the ended tenures of a task. The latest is its record until the next tenure begins or the record is
-- dropped; then it is archived here for RULES.history_ms.
--
--   :tenures:TASK   the tenures before the record, the latest first, each as JSON
--   :history        "fence task" of each of them, by its end; also of a tenure that is still a record, if the record
--                   outlives its retention (the task is listed or on hold) or is that of a task done for longer than
--                   RULES.retention_ms. The oldest are dropped where room is short (eviction.lua)

local TENURES, HISTORY = PREFIX .. ':tenures:', PREFIX .. ':history'

local function tenure_weight(task, kept) return #kept + 3 * #task + 300 end

-- Each is JSON from tenure_json(), in which no value has an unescaped quote: these fields are read without decoding.
local function fence_of(kept) return string.match(kept, '"fence":"(%d+)"') end
local function within_history(kept)
  local ended = number(string.match(kept, '"ended":"(%d+)"'))
  return ended ~= nil and ended + RULES.history_ms > NOW
end

local SPENT = {held = 'worked', parked = 'parked'}

-- Return the ms for which a tenure was held and parked, up to `up_to`, as texts; nil, nil if it was held from
-- beginning to end. Time before `mark` is counted already.
local function time_spent(rec, up_to)
  if not rec.mark then return nil, nil end
  local spent, field = {worked = number(rec.worked) or 0, parked = number(rec.parked) or 0}, SPENT[rec.state]
  if field then spent[field] = spent[field] + math.max(0, up_to - (number(rec.mark) or up_to)) end
  return text(spent.worked), text(spent.parked)
end

-- Count the time in the current state of a tenure that moves to the state `to`. A tenure that was held from
-- beginning to end gets no counts. Time in review is neither held nor parked, and neither is time after an end,
-- even if the tenure is revived.
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

-- Return the ended tenures of `task` as JSON, the latest first, `most` at most.
local function tenures_of(task, rec, most)
  local found, last = {}, rec.gone or rec
  if last.owner and (not live(last) or overdue(last)) then found[1] = tenure_json(last) end
  for _, kept in ipairs(redis.pcall('LRANGE', TENURES .. task, 0, most - 1)) do
    if #found < most and within_history(kept) then found[#found + 1] = kept end
  end
  return found
end

-- Add the ended tenure that is still the record `rec` to the index of the history.
local function index_tenure(task, rec)
  local member = rec.fence .. ' ' .. task
  overwrite('ZADD', HISTORY, rec.ended, member)
end

-- Archive the ended tenure `rec`, because the next one begins or its record is dropped. `most` are kept here: one
-- less than RULES.tenures_kept if there will be a record.
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

-- Drop one archived tenure; return whether it was there.
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
