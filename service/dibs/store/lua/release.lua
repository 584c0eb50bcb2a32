-- release.lua: end this session's claim on a task, or all its claims; or leave the task's queue.
--
-- ARG.task, '' for all   .fence, '' for any   .outcome: released | abandoned | done
-- ARG.note  .pr
--
-- {'ended', now, losses, {task, state, already}…}   state is the task's now: free | done | held …
-- {'not-mine', now, losses, view | '', 'lost' | 'not-holder' | 'moved', loss}   one task only
-- {'damaged', now, losses, task}   the record of the named task cannot be read
-- {'rate-limited', …}   {'stalled', now}
--
-- Safe to run twice: ends are kept for the retention, and a repeat returns 'already'.
-- O(claims of the session × log live claims of the project).
--- @include common.lua
--- @include record.lua
--- @include listing.lua
--- @include archive.lua
--- @include lookup.lua
--- @include sums.lua
--- @include losses.lua
--- @include tenure.lua
--- @include queue.lua
--- @include endings.lua

local one, fence, outcome = ARG.task, ARG.fence, ARG.outcome

local function release(task, rec, note)
  record_lapse(task, rec)
  end_tenure(task, rec, outcome, {note = note, pr = ARG.pr})
  return {task, state_now(task, rec), ''}
end

local ENDED_BY_HOLDER = {released = true, abandoned = true, done = true}

-- Return whether this session ended the tenure that `fence` names, or without `fence` the latest tenure.
local function ended_before(task, rec)
  if rec.owner == SESSION and ENDED_BY_HOLDER[rec.state] and (fence == '' or fence == rec.fence) then
    return true
  end
  if fence == '' then return false end
  if rec.last_owner == SESSION and ENDED_BY_HOLDER[rec.last_outcome] and fence == rec.last_fence then
    return true
  end
  return ended_by(task, fence, string.sub(SESSION, 1, 10))
end

local told = take_losses()

if one ~= '' then
  local rec = load_current(one)
  if rec.damaged then return answer('damaged', told, one) end
  local ours = rec.owner == SESSION and (live(rec) or rec.state == 'lapsed')
  if ours and (fence == '' or fence == rec.fence) then
    return answer('ended', told, release(one, rec, ARG.note))
  end
  local already = ended_before(one, rec)
  -- A session that waits for a task that it ended before, and names no fence, means its place in the queue.
  if not ours and not (already and fence ~= '') then
    local left = leave_queue(one, rec)
    if left then return answer('ended', told, left) end
  end
  if already then
    touch()
    return answer('ended', told, {one, state_now(one, rec), '1'})
  end
  local why, loss = why_not_holder(one, rec, fence)
  if ours then why, loss = 'moved', '' end
  return answer('not-mine', told, to_json(one, rec), why, loss)
end

-- Return whether a claim outlives its session: it is in review, or its pull request may be open, and this puts it
-- back into review. Only a release that names the task ends it.
local function waits(task, rec)
  if not live(rec) or overdue(rec) then return false end
  local open = (number(rec.open_until) or 0) > NOW
  if open and rec.state ~= 'review' then extend(task, rec, {state = 'review'}) end
  return open or rec.state == 'review'
end

local reply = {'ended', NOW_TEXT, told}
for _, task in ipairs(own_tasks()) do
  local rec = load_current(task)
  if rec.owner == SESSION and (live(rec) or rec.state == 'lapsed') and not waits(task, rec) then
    -- The caller may not know of a claim that lapsed: the note of all is not about it.
    local late = rec.state == 'lapsed' or overdue(rec)
    reply[#reply + 1] = release(task, rec, late and rec.note or ARG.note)
  end
end
if #reply == 3 then touch() end
return reply
