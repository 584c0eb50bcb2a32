-- backlog.lua: a page of the listed tasks, in the order of `next`, as one snapshot. Changes nothing.
--
-- ARG.states wanted, comma-separated: ready,blocked,on-hold,failed,held,parked,review,lapsed,done,dropped
-- ARG.tag that a task must have, '' for any   .text that its name or title must contain, lower case
-- ARG.most tasks to return   .cursor: '' or "rank task", the last task of the previous page
--
-- {'listed', now, seq, cursor | '', damaged, view…}   see list.lua
-- Safe to run twice: it only reads. O(tasks read), at most RULES.list_scan.
--- @include common.lua
--- @include record.lua
--- @include listing.lua

local want, tag, needle, most = {}, ARG.tag, ARG.text, tonumber(ARG.most)
for state in string.gmatch(ARG.states, '[%a-]+') do want[state] = true end

local function matches(task, rec, entry)
  if not want[entry.dropped and 'dropped' or state_now(task, rec)] then return false end
  if tag ~= '' and not string.find('\n' .. (entry.tags or '') .. '\n', '\n' .. tag .. '\n', 1, true) then return false end
  return needle == '' or string.find(string.lower(task .. '\n' .. (entry.title or '')), needle, 1, true) ~= nil
end

local epoch = text(number(call('HGET', META, 'epoch')) or 0)
local last = call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)
local reply = {'listed', NOW_TEXT, epoch .. '-' .. (last[1] and last[1][1] or '0-0'), '', {}}
local from, after = string.match(ARG.cursor, '^(%d+) (.*)$')
local scanned, offset = 0, 0
repeat
  local page = call('ZRANGEBYSCORE', PREFIX .. ':listed', from or '-inf', '+inf', 'WITHSCORES', 'LIMIT', offset, 200)
  for i = 1, #page, 2 do
    local task, score = page[i], page[i + 1]
    if not (after and task <= after and tonumber(score) == tonumber(from)) then
      if #reply - 5 >= most or scanned >= RULES.list_scan then return reply end
      scanned = scanned + 1
      local rec, entry = load(task), listing(task)
      if rec.damaged or not entry then
        table.insert(reply[5], task)
      elseif matches(task, rec, entry) then
        reply[#reply + 1] = to_json(task, rec, true, 'list')
      end
      reply[4] = text(tonumber(score)) .. ' ' .. task
    end
  end
  offset = offset + 200
until #page < 400
reply[4] = ''
return reply
