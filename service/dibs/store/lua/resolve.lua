-- resolve.lua: CI, the forge or a person reports how the pull request of a task ended, or that it was opened.
--
-- ARG.task, '' to find it by the next two   .pr, '' or its URL   .branch, '' or the branch that it is on
-- ARG.fence, '' for any   .outcome: merged | rejected; opened: the task goes into review
-- ARG.note  .sha  .by: who reports it
--
-- {'ended', now, losses, {task, state, already}}   state is the task's now
-- {'moved', now, losses, view | ''}   a newer tenure has the task, or the last one has another fence or pull request
-- {'ambiguous', now, losses, task, task}   at least two tasks are on that pull request or branch
-- {'unknown', now, losses}   no session ever had such a task, or its record is gone
-- {'damaged', now, losses, task}   its record cannot be read
-- {'stalled', now}
-- Safe to run twice: the second run finds the task as the first run left it, and returns 'already'.
-- O(tasks on one branch), at most MOST; a branch of more tasks than that identifies none.
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

-- Return the tasks whose current tenure has a branch or pull request, those whose previous tenure has it, and
-- whether there are more than MOST, of which some were not read.
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

-- Return only the live tasks, or all if none is live.
local function live_ones(tasks)
  local found = {}
  for _, each in ipairs(tasks) do
    if live(load(each)) then found[#found + 1] = each end
  end
  return #found > 0 and found or tasks
end

-- Return the one task that matches; or nil, and an answer that says why there is none.
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

-- A tenure has one pull request, the last that was reported: a verdict on another one does not apply to the task.
local stands = live(rec) or rec.state == 'lapsed' or rec.state == 'done' or rec.state == 'retried' and outcome == 'rejected'
if outcome ~= 'opened' and pr ~= '' and rec.pr and rec.pr ~= pr and stands then
  return answer('moved', {}, to_json(task, rec))
end

local to = ({merged = 'done', rejected = 'rejected', opened = 'review'})[outcome]
local is_news = pr ~= '' and rec.pr ~= pr and (to == 'review' or rec.pr)
-- Its session may have released it as done before. Once it is merged, a later `rejected` changes nothing.
local known = rec.state == to and (to ~= 'done' or rec.merged)
if (known or rec.merged and to ~= 'review') and not is_news then
  return answer('ended', {}, {task, state_now(task, rec), '1'})
end
-- An opened pull request revives a claim only if that lapsed or was rejected.
if to == 'review' and not live(rec) and rec.state ~= 'lapsed' and rec.state ~= 'rejected' then
  return answer('ended', {}, {task, state_now(task, rec), '1'})
end

if pr ~= '' then set_lookup_field(task, rec, 'pr', pr) end
if ARG.note ~= '' then rec.note = ARG.note end
rec.reason = nil  -- that of a break, which this outcome replaces
rec.by, rec.sha = to ~= 'review' and ARG.by or nil, ARG.sha ~= '' and ARG.sha or nil
rec.merged, rec.was = to == 'done' and '1' or nil, nil
local is_loss = rec.state == 'lapsed' or to ~= 'rejected' and rec.state == 'rejected'
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
