-- heartbeat.lua: push back the deadline of one claim of this session, or of all of them.
--
-- ARG.task, '' for all   .fence, '' for any   .ttl_ms, '' for the claim's own
-- ARG.state: working | parked | review | ''   .note  .pr, '' to leave them as they are
--
-- {'kept', now, losses, view…}
-- {'not-mine', now, losses, view | '', 'lost' | 'not-holder' | 'moved', loss}   one task only
-- {'damaged', now, losses, task}   the record of the named task cannot be read
-- {'rate-limited', …}   {'stalled', now}
--
-- Safe to run twice: a repeat moves the deadline that it already moved. A heartbeat revives a lapsed
-- claim that nobody has taken, with its fence. A plain heartbeat never shortens a deadline; an
-- explicit `working` sets it to now + ttl. O(claims of the session).
--
-- Writes, for each claim: :task:TASK, the record, with a later `due` and `beat`; :live, the task by its deadline.
-- For the session: :rates:held:SPAN, the cost of the call; :lost:SESSION, if a loss is reported or removed.
-- For the project: :meta, the size of the records, if it changed. If a state changes, also everything that
-- transition() in tenure.lua maintains: an event, and the indexes and sets of both states.
--- @include common.lua
--- @include record.lua
--- @include listing.lua
--- @include archive.lua
--- @include lookup.lua
--- @include sums.lua
--- @include losses.lua
--- @include tenure.lua
--- @include endings.lua

local one, fence, ttl_ms, note = ARG.task, ARG.fence, tonumber(ARG.ttl_ms), ARG.note
local change = {ttl_ms = ttl_ms, note = note, pr = ARG.pr, resume = ARG.state == 'working'}
if ARG.state == 'parked' or ARG.state == 'review' then change.state = ARG.state end

local function mine(task, rec)
  if rec.owner ~= SESSION then return false end
  record_lapse(task, rec)
  return live(rec) or revivable(rec)
end

local told = take_losses()

if one ~= '' then
  local rec = load_current(one)
  if rec.damaged then return answer('damaged', told, one) end
  local ours = mine(one, rec)
  if ours and (fence == '' or fence == rec.fence) then
    extend(one, rec, change)
    return answer('kept', told, to_json(one, rec))
  end
  local why, loss = why_not_holder(one, rec, fence)
  if ours then why, loss = 'moved', '' end
  return answer('not-mine', told, to_json(one, rec), why, loss)
end

local reply = {'kept', NOW_TEXT, told}
for _, task in ipairs(own_tasks()) do
  local rec = load_current(task)
  if mine(task, rec) then
    -- A claim in review needs no heartbeat, and becomes work again only if its task is named.
    if rec.state ~= 'review' then extend(task, rec, change) end
    reply[#reply + 1] = to_json(task, rec)
  elseif rec.owner ~= SESSION and not rec.damaged then
    bypass_oom_guard()
    call('SREM', HELD .. SESSION, task)
  end
end
return reply
