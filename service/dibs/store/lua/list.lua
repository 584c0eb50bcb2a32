-- list.lua: a page of a project's claims, as one snapshot. Changes nothing.
--
-- ARG.states wanted, comma-separated: held,parked,review,lapsed,failed,on-hold,done
-- ARG.text that a task, label, branch, note or pull request must contain, lower case, '' for all
-- ARG.holder (ref or label), '' for all   .mine: '1' for those of SESSION   .most claims to return
-- ARG.pr  .branch: '' or the pull request or branch of the claims; the branch counts only if no claim is on the
--   pull request. They are found by an index, and come on one page of at most .most claims
-- ARG.told: '1' adds the listing of each task, without its body
-- ARG.cursor: '' or "index score task", the last claim of the previous page
--
-- {'listed', now, seq, cursor | '', damaged, view…}   seq is the last event's id, epoch-stream id
-- damaged: tasks on the page whose record cannot be read, regardless of the filters
-- Live claims come first, the soonest to lapse first; then lapsed and done claims, the latest first.
-- A heartbeat that only extends moves a claim to a later page, never to an earlier one. A lapsed or parked claim that
-- is held again may move to an earlier page, so that no page has it; an event after the first page's `seq` shows that.
-- Safe to run twice: it only reads. O(claims read), at most RULES.list_scan.
--- @include common.lua
--- @include record.lua

local wanted, needle, holder, most = ARG.states, ARG.text, ARG.holder, tonumber(ARG.most)
local mine = ARG.mine == '1'
local want = {}
for state in string.gmatch(wanted, '[%a-]+') do want[state] = true end

local function matches(task, rec, states)
  local state = state_now(task, rec)
  if not rec.owner or not states[state] or state == 'done' and past_retention(rec) then return false end
  if holder ~= '' and holder ~= rec.label and holder ~= string.sub(rec.owner, 1, 10) then return false end
  if mine and rec.owner ~= SESSION then return false end
  if needle == '' then return true end
  local hay = string.lower(table.concat({task, rec.label or '', rec.branch or '', rec.note or '', rec.pr or ''}, '\n'))
  return string.find(hay, needle, 1, true) ~= nil
end

-- Up to 200 members of an index from (score, member) on, in its order, that one not included.
local function after(index, score, member, backwards)
  local range, from, to = 'ZRANGEBYSCORE', score, '+inf'
  if backwards then range, to = 'ZREVRANGEBYSCORE', '-inf' end
  local found, offset = {}, 0
  repeat
    local flat = call(range, index, from, to, 'WITHSCORES', 'LIMIT', offset, 200)
    for i = 1, #flat, 2 do
      local same = tonumber(flat[i + 1]) == tonumber(score)
      local past = (backwards and flat[i] < member) or (not backwards and flat[i] > member)
      if not same or member == '' or past then found[#found + 1] = {flat[i], flat[i + 1]} end
    end
    offset = offset + 200
  until #found > 0 or #flat < 400
  return found
end

-- The indexes to read, and the states to find in each: an overdue claim is in :live until its lapse is recorded.
local indexes = {
  {key = LIVE, states = {'held', 'parked', 'review', 'lapsed', 'failed', 'on-hold'}, score = '-inf', backwards = false},
  {key = PREFIX .. ':lapsed', states = {'lapsed'}, score = '+inf', backwards = true},
  {key = PREFIX .. ':done', states = {'done'}, score = '+inf', backwards = true},
  {key = PREFIX .. ':damaged', wanted = true, states = {}, score = '-inf', backwards = false},
  {key = PREFIX .. ':failed', states = {'failed'}, score = '+inf', backwards = true},
  -- An expired hold stays here until an act or the sweep ends it, and may hide that the task failed.
  {key = PREFIX .. ':on-hold', states = {'on-hold', 'failed'}, score = '-inf', backwards = false},
}
for _, index in ipairs(indexes) do
  for _, state in ipairs(index.states) do
    index[state] = want[state]
    index.wanted = index.wanted or want[state]
  end
end
local first, score, member = 1, nil, ''
if ARG.cursor ~= '' then
  local index, at, task = string.match(ARG.cursor, '^(%d) (%S+) (.*)$')
  first, score, member = tonumber(index), at, task
end

local epoch = text(number(call('HGET', META, 'epoch')) or 0)
local last = call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)
local reply = {'listed', NOW_TEXT, epoch .. '-' .. (last[1] and last[1][1] or '0-0'), '', {}}
local scanned = 0

-- Put the claims on a branch or pull request into the reply (lookup.lua); return whether there are any.
local function find(field, value)
  local tasks = value ~= '' and redis.pcall('SRANDMEMBER', PREFIX .. ':' .. field .. ':' .. value, RULES.list_scan) or {}
  table.sort(tasks)
  for _, task in ipairs(tasks) do
    local rec = load(task)
    if rec.damaged then
      table.insert(reply[5], task)
    elseif rec[field] == value and #reply - 5 < most and matches(task, rec, want) then
      reply[#reply + 1] = to_json(task, rec, nil, ARG.told == '1' and 'list')
    end
  end
  return #reply > 5
end

if ARG.pr .. ARG.branch ~= '' then
  if not find('pr', ARG.pr) then find('branch', ARG.branch) end
  return reply
end

for number = first, #indexes do
  local index = indexes[number]
  if index.wanted then
    local from, at = score or index.score, member
    while true do
      local page = after(index.key, from, at, index.backwards)
      if #page == 0 then break end
      for _, entry in ipairs(page) do
        if #reply - 5 >= most or scanned >= RULES.list_scan then
          reply[4] = number .. ' ' .. from .. ' ' .. at
          return reply
        end
        at, from = entry[1], entry[2]
        scanned = scanned + 1
        local rec = load(at)
        if rec.damaged then
          table.insert(reply[5], at)
        elseif rec.state and live(rec) == (index.key == LIVE) and matches(at, rec, index) then
          reply[#reply + 1] = to_json(at, rec, nil, ARG.told == '1' and 'list')
        end
      end
    end
  end
  score, member = nil, ''
end
return reply
