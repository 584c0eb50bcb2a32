-- tenure.lua: how a claim lapses, goes on, and is lost.

-- What a session no longer has. An entry stays for the retention, told or not, so that a late
-- heartbeat still hears why; `by` is the record of whoever has the task now.
local function note_loss(session, task, fence, reason, fields)
  local entry = {task = task, fence = fence, reason = reason, at = NOW_TEXT}
  for field, value in pairs(fields or {}) do entry[field] = value end
  call('HSET', LOST .. session, task, cjson.encode(entry))
  call('PEXPIRE', LOST .. session, RULES.retention_ms)
end

-- The passing of a deadline, written down once by whichever act meets it first.
local function settle(task, rec)
  if not overdue(rec) then return end
  let_holder_write()
  if rec.state == 'parked' then call('SREM', PARKED, task) end
  call('HINCRBY', META, 'lapses', 1)
  rec.state, rec.ended = 'lapsed', text(rec.due_at)
  rec.due = rec.ended
  rec.lapses = text(tonumber(rec.lapses or '0') + 1)
  save(task, rec, 'PX', RULES.retention_ms)
  call('ZREM', LIVE, task)
  call('ZADD', LAPSED, rec.ended, task)
  call('SREM', HELD .. rec.owner, task)
  note_loss(rec.owner, task, rec.fence, 'lapsed', {open = '1'})
  tell('lapsed', task, rec, 'note', rec.note or '')
end

-- A lapsed claim that nobody took may go on, same fence, while it is within max_hold.
local function revivable(rec)
  return rec.state == 'lapsed' and tonumber(rec.since) + RULES.max_hold_ms > NOW
end

-- Extend the claim `rec` of SESSION on `task`, bring it back if it lapsed, and apply `change`:
-- {ttl_ms, state = 'held'|'parked', resume = bool, note, label, branch, url}, each or nil.
local function keep(task, rec, change)
  settle(task, rec)
  let_holder_write()
  local was, revived = rec.state, rec.state == 'lapsed'
  rec.state = change.state or 'held'
  if change.ttl_ms and rec.state == 'held' then rec.ttl = text(change.ttl_ms) end
  local span = tonumber(rec.ttl)
  if rec.state == 'parked' then span = change.ttl_ms or RULES.park_ms end
  if change.resume then rec.due_at = math.min(rec.due_at, NOW + span) end
  -- Never earlier than the deadline that the holder already has, and never past max_hold.
  local limit = tonumber(rec.since) + RULES.max_hold_ms
  rec.due_at = math.max(rec.due_at, math.min(NOW + span, limit))
  rec.due, rec.beat = text(rec.due_at), NOW_TEXT
  for _, field in ipairs({'note', 'label', 'branch', 'url'}) do
    if change[field] and change[field] ~= '' then rec[field] = change[field] end
  end
  if revived then rec.ended = nil end
  save(task, rec)
  call('ZADD', LIVE, rec.due, task)
  if revived then
    call('ZREM', LAPSED, task)
    call('SADD', HELD .. SESSION, task)
    call('HDEL', LOST .. SESSION, task)
    tell('revived', task, rec)
  end
  if rec.state ~= was then call(rec.state == 'parked' and 'SADD' or 'SREM', PARKED, task) end
  if rec.state == 'parked' and was ~= 'parked' then tell('parked', task, rec, 'note', rec.note or '') end
  if rec.state == 'held' and was == 'parked' then tell('resumed', task, rec) end
end

-- Losses that SESSION has not heard of. A retry of the request that told them hears them again,
-- because its first reply may have been lost.
local function losses()
  if SESSION == '' then return {} end
  local flat, told = call('HGETALL', LOST .. SESSION), {}
  for i = 1, #flat, 2 do
    local entry = cjson.decode(flat[i + 1])
    if not entry.open and (not entry.told or entry.told == REQUEST) then
      if not entry.told then
        entry.told = REQUEST
        let_holder_write()
        call('HSET', LOST .. SESSION, flat[i], cjson.encode(entry))
      end
      told[#told + 1] = cjson.encode(entry)
    end
  end
  return told
end
