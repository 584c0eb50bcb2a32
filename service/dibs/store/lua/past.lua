-- past.lua: the tenures of a task that are over. The latest is its record, until the next one begins.
--
--   :tenures:TASK   those before it, the latest first, each as JSON
--   :past           the tasks that have some, by when the last of them began

local TENURES, PAST = PREFIX .. ':tenures:', PREFIX .. ':past'

local function as_tenure(rec)
  local due = overdue(rec)
  return cjson.encode({
    fence = rec.fence, ref = string.sub(rec.owner, 1, 10), label = rec.label, branch = rec.branch, url = rec.url,
    since = rec.since, ended = due and text(rec.due_at) or rec.ended, outcome = due and 'lapsed' or rec.was or rec.state,
    note = rec.note, pr = rec.pr, reason = rec.reason, by = rec.by,
  })
end

-- Those of `task` that are over, the latest first, `most` at most.
local function tenures_of(task, rec, most)
  local found = redis.pcall('LRANGE', TENURES .. task, 0, most - 1)
  if found.err then found = {} end
  if rec.owner and (not live(rec) or overdue(rec)) then
    table.insert(found, 1, as_tenure(rec))
    found[most + 1] = nil
  end
  return found
end

-- The next tenure begins: keep the one before.
local function keep_tenure(task, rec)
  local key, kept = TENURES .. task, as_tenure(rec)
  local many = redis.pcall('LPUSH', key, kept)
  if type(many) == 'table' then
    call('DEL', key)  -- something else lies there
    many = call('LPUSH', key, kept)
  end
  redis.pcall('ZADD', PAST, NOW_TEXT, task)
  GREW = GREW + #kept
  if many >= RULES.tenures_kept then GREW = GREW - #call('RPOP', key) end
end

local function forget_past(task)
  if redis.pcall('ZREM', PAST, task) == 0 then return end
  for _, kept in ipairs(redis.pcall('LRANGE', TENURES .. task, 0, -1)) do GREW = GREW - #kept end
  call('DEL', TENURES .. task)
end

-- A past never keeps a claim out: where the records of the project, `weighed` before this run, are at their
-- limit, the oldest go.
local function make_room_of_past(weighed)
  if weighed + GREW < RULES.record_bytes then return end
  for _, task in ipairs(redis.pcall('ZRANGE', PAST, 0, 99)) do
    if weighed + GREW < RULES.record_bytes * 15 / 16 then break end
    forget_past(task)
  end
end
