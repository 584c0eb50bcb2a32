-- resolve.lua: how the pull request of a task ended, or how it goes on. Who says so is CI, the forge, or a person.
--
-- ARG.task, '' where the next two are to find it   .pr, '' or its URL   .branch, '' or the branch that it is on
-- ARG.fence, '' for any   .outcome: merged | rejected; opened: it waits for its review
-- ARG.note  .sha  .by: who says so
--
-- {'ended', now, losses, {task, state, already}}   state is the task's now
-- {'moved', now, losses, view | ''}   a newer tenure has the task, or the fence is not that of the last one
-- {'ambiguous', now, losses, task, task}   two tasks at least are on that pull request or branch
-- {'unknown', now, losses}   no session ever had such a task, or it was long ago
-- {'damaged', now, losses, task}   nobody can read its record
-- {'stalled', now}
-- Safe to run twice: the second run finds the task as the first one left it, and says 'already'.
-- O(tasks on one branch, MOST of them at most; a branch of more is no name for one).
--- @include common.lua
--- @include record.lua
--- @include listing.lua
--- @include archive.lua
--- @include lookup.lua
--- @include sums.lua
--- @include losses.lua
--- @include tenure.lua

local MOST = 500
local task, pr, fence, outcome = ARG.task, ARG.pr, ARG.fence, ARG.outcome
local given = {pr = pr, branch = ARG.branch}

-- The tasks that have a branch or pull request: of this tenure, and of the one before; and whether there
-- are more, of which nobody knows.
local function found_by(field, value)
  local now, before = {}, {}
  local named = value ~= '' and redis.pcall('SRANDMEMBER', lookup_key(field, value), MOST + 1) or {}
  for _, each in ipairs(named) do
    local rec = load_current(each)
    record_lapse(each, rec)
    if rec[field] == value then
      now[#now + 1] = each
    elseif rec['last_' .. field] == value then
      before[#before + 1] = each
    else
      bypass_oom_guard()
      drop_lookup(each, field, value)  -- its record was damaged
    end
  end
  table.sort(now)
  table.sort(before)
  return now, before, #named > MOST
end

-- Of several, those that somebody has are meant.
local function live_ones(tasks)
  local found = {}
  for _, each in ipairs(tasks) do
    if live(load(each)) then found[#found + 1] = each end
  end
  return #found > 0 and found or tasks
end

-- The one task that is meant; or an answer that says why there is none.
local function find()
  for _, field in ipairs({'pr', 'branch'}) do
    local now, before, more = found_by(field, given[field])
    for _, each in ipairs(more and before or {}) do now[#now + 1] = each end
    if #now > 1 and not more then now = live_ones(now) end
    if #now > 1 then return nil, answer('ambiguous', {}, now[1], now[2]) end
    if now[1] then return now[1] end
    if before[1] then return nil, answer('moved', {}, to_json(before[1], load(before[1]))) end
  end
  return nil, answer('unknown', {})
end

if task == '' then
  local refusal
  task, refusal = find()
  if refusal then return refusal end
end
local rec = load_current(task)
if rec.damaged then return answer('damaged', {}, task) end
record_lapse(task, rec)
if not rec.owner then return answer('unknown', {}) end
if fence ~= '' and fence ~= rec.fence then return answer('moved', {}, to_json(task, rec)) end

-- Of two pull requests of one tenure the last that was told is the task's: a verdict on another is none on it.
local ended_well = rec.state == 'done' or rec.state == 'retried'
local stands = live(rec) or rec.state == 'lapsed' or ended_well and outcome == 'rejected'
if outcome ~= 'opened' and pr ~= '' and rec.pr and rec.pr ~= pr and stands then
  return answer('moved', {}, to_json(task, rec))
end

local to = ({merged = 'done', rejected = 'rejected', opened = 'review'})[outcome]
local is_news = pr ~= '' and rec.pr ~= pr and (to == 'review' or rec.pr)
-- Its session may have called it done before. That it was merged stays so, and only a person says otherwise.
local known = rec.state == to and (to ~= 'done' or rec.merged)
if (known or rec.merged and to ~= 'review') and not is_news then
  return answer('ended', {}, {task, state_now(task, rec), '1'})
end
-- A pull request that is opened brings nothing back that ended another way than by its being closed.
if to == 'review' and not live(rec) and rec.state ~= 'lapsed' and rec.state ~= 'rejected' then
  return answer('ended', {}, {task, state_now(task, rec), '1'})
end

if pr ~= '' then set_lookup_field(task, rec, 'pr', pr) end
if ARG.note ~= '' then rec.note = ARG.note end
rec.by, rec.sha = to ~= 'review' and ARG.by or nil, ARG.sha ~= '' and ARG.sha or nil
rec.merged, rec.was = to == 'done' and '1' or nil, nil
local is_loss = rec.state == 'lapsed' or to == 'review' and rec.state == 'rejected'
local held_before, done_before = live(rec), rec.state == 'done'
if to == 'review' then
  rec.due_at = NOW + RULES.review_ms
  rec.open_until = text(rec.due_at)
  rec.beat = NOW_TEXT
end
bypass_oom_guard()
transition(task, rec, to)
if done_before and to == 'done' then
  emit('done', task, rec, 'note', rec.note or '', 'pr', rec.pr or '', 'by', rec.by, 'sha', rec.sha or '')
end
if is_loss then call('HDEL', LOST .. rec.owner, task) end
if to == 'rejected' then
  record_loss(rec.owner, task, rec.fence, 'rejected', NOW + RULES.retention_ms, {by_label = ARG.by, note = ARG.note, pr = rec.pr})
elseif held_before and to == 'done' then
  call('ZADD', PREFIX .. ':endings', rec.ended, rec.fence .. ' ' .. string.sub(rec.owner, 1, 10) .. ' ' .. task)
end
return answer('ended', {}, {task, state_now(task, rec), ''})
