-- holds.lua: the hold of a task, until a person ends it or its time is over.

-- Parse a stored hold; nil if it is over or cannot be read.
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

-- End the hold of a task and return its record; `by` and `reason` are '' if its time is over.
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

-- Return the record of a task, after ending its hold if that is over.
local function expire_hold(task, rec)
  if not rec.hold or on_hold(rec) then return rec end
  return take_off_hold(task, rec, '', '')
end
