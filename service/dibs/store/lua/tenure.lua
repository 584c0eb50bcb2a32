-- tenure.lua: how a task moves from state to state: its tenure begins, lapses, is revived, ends; and how its
-- record is dropped.

local function uncount_address(address_hash)
  if not address_hash then return end
  local left = redis.pcall('HINCRBY', PREFIX .. ':places', address_hash, -1)
  if type(left) == 'table' or left <= 0 then call('HDEL', PREFIX .. ':places', address_hash) end
end

-- Update the failures of a tenure that moves from the state `from` to `to`. On an unlisted name, which may be a
-- lock, `released` is a good end; on a listed task, within RULES.brief_ms, it is a failure.
local function count_failure(rec, from, to)
  local many = tonumber(rec.failures or '0')
  local failed = from == 'lapsed' or from == 'rejected'
  local released_at = from == 'released' and rec.ended or to == 'released' and NOW
  local brief = rec.listed and released_at and released_at - rec.since < RULES.brief_ms
  if failed and INDEX[to] == ':live' then
    many = many - 1
  elseif to == 'rejected' then
    local counted = failed or from == 'abandoned' or from == 'broken' or brief and many > 0
    if not counted then many = many + 1 end
  elseif INDEX[from] == ':live' then
    if to == 'lapsed' or to == 'abandoned' or to == 'broken' or brief then many = many + 1 end
    if to == 'released' and not rec.listed then many = 0 end
  end
  rec.failures = many > 0 and text(many) or nil
end

-- Move `task` to the state `to`, and write `rec`. `old` is the record of the previous tenure, if `rec` begins a
-- new one. Nothing else writes a state, and this function maintains all that depends on it: the deadline or the
-- end, the failures, the index, the set of a live state other than 'held', the claims of the holder and of the
-- address, the ready tasks, and the event. A heartbeat calls it as well, with the state that the task has.
local function transition(task, rec, to, old)
  local from = (old or rec).state
  local left, entered = INDEX[from], INDEX[to]
  local failed = used_up(rec, tonumber(rec.failures or '0'))
  if not old then
    bypass_oom_guard()
    if from ~= to then count_failure(rec, from, to) end
    -- A verdict on a task that is done already moves its end, too.
    if from ~= to or left ~= ':live' then count_time(rec, to) end
  end
  rec.state = to
  if entered == ':live' or to == 'lapsed' then rec.due = text(rec.due_at) end
  if entered ~= ':live' then
    rec.ended = to == 'lapsed' and rec.due or NOW_TEXT
  elseif rec.ended then
    rec.ended = nil
  end
  save(task, rec)
  call('ZADD', PREFIX .. entered, rec.ended or rec.due, task)
  if from == to then return end
  if left ~= entered then
    if left then call('ZREM', PREFIX .. left, task) end
    if entered == ':live' then
      call('SADD', HELD .. rec.owner, task)
      local come = rec.place and redis.pcall('HINCRBY', PREFIX .. ':places', rec.place, 1)
      if type(come) == 'table' then call('HSET', PREFIX .. ':places', rec.place, '1') end
    elseif left == ':live' then
      redis.pcall('SREM', HELD .. rec.owner, task)
      uncount_address(rec.place)
    end
  end
  if rec.listed or rec.failures or failed or old and old.failures then set_ready(task, rec) end
  if (from == 'done') ~= (to == 'done') then update_dependents(task, to == 'done' and -1 or 1) end
  if old then return emit('claimed', task, rec) end
  if left == ':live' and from ~= 'held' then call('SREM', PREFIX .. ':' .. from, task) end
  if entered == ':live' and to ~= 'held' then call('SADD', PREFIX .. ':' .. to, task) end
  local back = entered == ':live' and (to == 'held' or left ~= ':live')
    and ({parked = 'resumed', review = 'resumed', lapsed = 'revived', rejected = 'revived'})[from]
  if back then emit(back, task, rec) end
  -- The event of a state has the name of the state, and these fields of the record.
  local fields, shown = {}, ({
    lapsed = 'note', parked = 'note', review = 'note pr branch', done = 'note pr by sha', rejected = 'note pr by', released = 'note pr', abandoned = 'note pr',
    broken = 'reason by',
  })[to]
  for field in string.gmatch(shown or '', '%a+') do
    fields[#fields + 1], fields[#fields + 2] = field, rec[field] or ''
  end
  if shown then emit(to, task, rec, unpack(fields)) end
  if used_up(rec) and not failed and not rec.hold then emit('failed', task, rec) end
end

-- Record a passed deadline, once; the first act that reads the task does this.
local function record_lapse(task, rec)
  if not overdue(rec) then return end
  rec.lapses = text(tonumber(rec.lapses or '0') + 1)
  transition(task, rec, 'lapsed')
  increment('lapses', '1')
  record_loss(rec.owner, task, rec.fence, 'lapsed', rec.due_at + RULES.retention_ms, {open = '1'})
end

-- Save a record whose state does not change, and put an ended task back into its index: 0.1.0 kept ended tasks
-- in no index, and the sweep removes tasks that outlive their retention because they are listed or on hold.
local function resave(task, rec)
  save(task, rec)
  local index = INDEX[rec.state]
  if index and index ~= ':live' then call('ZADD', PREFIX .. index, rec.ended, task) end
end

-- Return the field of META with the names that resemble one another, a line each. They have one skeleton
-- (confusables.py); `skeleton` is '' or nil if that is the name in lower case.
local function skeleton_field(task, skeleton)
  return '~' .. (skeleton and skeleton ~= '' and skeleton or string.lower(task))
end

-- Drop the record of an ended tenure, and archive the tenure unless it goes as a `whole`.
local function forget(task, rec, whole)
  bypass_oom_guard()
  record_lapse(task, rec)
  local field, others = skeleton_field(task, rec.like), {}
  for name in string.gmatch(call('HGET', META, field) or '', '[^\n]+') do
    if name ~= task then others[#others + 1] = name end
  end
  if #others == 0 then
    call('HDEL', META, field)
  else
    call('HSET', META, field, table.concat(others, '\n'))
  end
  call('DEL', RECORD .. task, PREFIX .. ':queue:' .. task)
  if not whole and not rec.damaged and rec.owner then archive_tenure(task, rec, RULES.tenures_kept) end
  each_lookup(task, rec, drop_lookup)
  if RECORD_SIZES[task] then RECORDS_GREW, RECORD_SIZES[task] = RECORDS_GREW - record_weight(task, RECORD_SIZES[task]), nil end
  call('SREM', PREFIX .. ':queued', task)
  for _, index in ipairs({':lapsed', ':done', ':ended', ':failed'}) do call('ZREM', PREFIX .. index, task) end
  if rec.damaged then
    if call('ZREM', LIVE, task) == 1 then uncount_address(rec.place) end
    call('ZREM', PREFIX .. ':damaged', task)
    call('SREM', PREFIX .. ':parked', task)
    call('SREM', PREFIX .. ':review', task)
    call('HDEL', META, 'weighs')  -- nobody knows its size before the damage
  end
  if rec.state == 'lapsed' then call('HDEL', LOST .. rec.owner, task) end
  if rec.state == 'done' then update_dependents(task, 1) end
  local entry = rec.damaged and listing(task)
  if rec.damaged and (entry or call('HEXISTS', HOLDS_KEPT, task) == 1) then
    local anew = {
      state = 'new', listed = entry and (entry.dropped and 'dropped' or '1') or nil, most = entry and entry.attempts,
      hold = call('ZSCORE', ON_HOLD, task) or nil, like = rec.like,
    }
    save(task, anew)
    set_ready(task, anew, entry)
  end
  if rec.damaged then update_dependents(task) end
end

-- Load a task's record for an act, and drop it if it is past its retention.
local function load_current(task)
  local rec = load(task)
  if not rec.gone then return rec end
  forget(task, rec.gone)
  return {}
end

-- Return when max_hold begins: at the grant, or when the tenure last came back from review.
local function held_from(rec) return number(rec.anew) or tonumber(rec.since) end

-- Return whether a lapsed claim that nobody took may be revived, with its fence: while it is within max_hold.
local function revivable(rec)
  return rec.state == 'lapsed' and held_from(rec) + RULES.max_hold_ms > NOW
end

-- Extend the claim `rec` of SESSION on `task`, revive it if it lapsed, and apply `change`: {ttl_ms,
-- state = 'held'|'parked'|'review', resume = bool, note, label, branch, url, pr}, each of them optional.
local function extend(task, rec, change)
  record_lapse(task, rec)
  local revived, to = rec.state == 'lapsed', change.state or 'held'
  if change.ttl_ms and to == 'held' then rec.ttl = text(change.ttl_ms) end
  local span = tonumber(rec.ttl)
  if to == 'parked' then span = change.ttl_ms or RULES.park_ms end
  if rec.state == 'review' and to ~= 'review' then
    rec.anew, rec.due_at = NOW_TEXT, 0  -- it is work again, with the deadline of work
  end
  if change.resume then rec.due_at = math.min(rec.due_at, NOW + span) end
  -- Never earlier than the deadline that the holder already has, and never past max_hold; but while its pull
  -- request may be open the task does not lapse, even if its session works on and dies (rule 22).
  local limit = held_from(rec) + RULES.max_hold_ms
  if to == 'review' then span, limit = RULES.review_ms, NOW + RULES.review_ms end
  rec.due_at = math.max(rec.due_at, math.min(NOW + span, limit))
  if to == 'review' then rec.open_until = text(rec.due_at) end
  rec.due_at = math.max(rec.due_at, number(rec.open_until) or 0)
  rec.beat = NOW_TEXT
  for _, field in ipairs({'note', 'label', 'url'}) do
    if change[field] and change[field] ~= '' then rec[field] = change[field] end
  end
  for _, field in ipairs({'branch', 'pr'}) do
    if change[field] and change[field] ~= '' then set_lookup_field(task, rec, field, change[field]) end
  end
  transition(task, rec, to)
  if revived then call('HDEL', LOST .. SESSION, task) end
end
