-- holds.lua: what a person has put on hold, until a person releases the hold, or its time is over.

-- What is known of a hold, kept as JSON; nil once it is over, or where nobody can read it.
local function read_hold(kept)
  local hold = kept and decode_texts(kept)
  if hold and number(hold.at) and (not hold.until_ms or (number(hold.until_ms) or 0) > NOW) then return hold end
end

local function load_hold(task)
  local kept = redis.pcall('HGET', HOLDS_KEPT, task)
  return type(kept) == 'string' and read_hold(kept), kept
end

-- Put a task on hold; `hold` is {by, reason, at, until_ms or nil}.
local function put_on_hold(task, rec, hold)
  bypass_oom_guard()
  call('HSET', HOLDS_KEPT, task, cjson.encode(hold))
  call('ZADD', ON_HOLD, hold.until_ms or NEVER, task)
  rec.state, rec.hold = rec.state or 'new', hold.until_ms or NEVER
  resave(task, rec)
  set_ready(task, rec)
  emit('on-hold', task, rec, 'reason', hold.reason, 'by', hold.by)
end

-- Release the hold of a task; `by` and `reason` are '' where its time was over.
local function take_off_hold(task, rec, by, reason)
  bypass_oom_guard()
  call('HDEL', HOLDS_KEPT, task)
  call('ZREM', ON_HOLD, task)
  if not rec.hold then return rec end
  rec.hold = nil
  emit('off-hold', task, rec, 'reason', reason, 'by', by)
  if rec.state == 'new' and not rec.listed or rec.state ~= 'new' and forgettable(rec) then
    forget(task, rec)
    return {}
  end
  resave(task, rec)
  set_ready(task, rec)
  return rec
end

-- A task that is on hold, as it is now: its hold may be over.
local function expire_hold(task, rec)
  if not rec.hold or on_hold(rec) then return rec end
  return take_off_hold(task, rec, '', '')
end
