-- history.lua: the tenures of a project that ended in a span of time, in the order of their ends. Changes nothing.
--
-- ARG.from_ms  .to_ms: lease time, the latter not included   .most tenures to give
-- ARG.cursor: '' or "time index member", the last entry that the previous page read
--
-- {'history', now, cursor | '', {task, tenure as JSON}…}
--   With a cursor there may be more, even if this page is empty: each page reads a limited number of entries.
-- {'stalled', now}
-- A tenure that moves from a record to the history between two pages may be in both; none is missed.
-- Safe to run twice: it only reads. O(log tenures + .most × tenures of a task), at most READ bytes.
--- @include common.lua
--- @include record.lua
--- @include archive.lua

local READ = 4194304
local from_ms, to_ms, most = ARG.from_ms, ARG.to_ms, tonumber(ARG.most)

-- The indexes of ended tenures: an overdue claim is in :live until its lapse is recorded. A tenure that changes its
-- index moves on in the order of the pages, never back.
local INDEXES = {':live', ':lapsed', ':ended', ':done', ':history'}

local cursor_at, cursor_index, cursor_member = string.match(ARG.cursor, '^(%d+) (%d) (.*)$')
cursor_index = tonumber(cursor_index or '0')

-- Return the entries of an index from the cursor on, and whether there may be more.
local function after(number)
  local from, past, offset, found, flat = cursor_at or from_ms, number == cursor_index, 0, {}, nil
  if number < cursor_index then from = '(' .. from end
  repeat
    flat = redis.pcall(
      'ZRANGEBYSCORE', PREFIX .. INDEXES[number], from, '(' .. to_ms, 'WITHSCORES', 'LIMIT', offset, most + 1)
    for i = 1, #flat, 2 do
      if not (past and flat[i + 1] == cursor_at and flat[i] <= cursor_member) then
        found[#found + 1] = {at = tonumber(flat[i + 1]), text = flat[i + 1], index = number, member = flat[i]}
      end
    end
    offset = offset + most + 1
  until #found > 0 or #flat < 2 * (most + 1)
  return found, #found > 0 and #flat == 2 * (most + 1)
end

local function is_before(one, other)
  if one.at ~= other.at then return one.at < other.at end
  if one.index ~= other.index then return one.index < other.index end
  return one.member < other.member
end

local read = 0

local function record(task)
  local rec = load(task)
  read = read + (RECORD_SIZES[task] or 0)
  return rec.gone or rec
end

-- Return the task of an entry, and its tenure as JSON; nothing if the tenure goes on, or another index has it.
local function open(entry)
  if entry.index < #INDEXES then
    local rec = record(entry.member)
    if rec.damaged or not rec.owner or live(rec) ~= (entry.index == 1) or live(rec) and not overdue(rec) then return end
    return entry.member, tenure_json(rec)
  end
  local fence, task = string.match(entry.member, '^(%d+) (.+)$')
  if not task then return end
  for _, kept in ipairs(redis.pcall('LRANGE', TENURES .. task, 0, -1)) do
    read = read + #kept
    if fence_of(kept) == fence then
      if within_history(kept) then return task, kept end
      return
    end
  end
  local rec = record(task)
  if rec.fence ~= fence or live(rec) or rec.ended ~= entry.text then return end
  if not call('ZSCORE', PREFIX .. INDEX[rec.state], task) then return task, tenure_json(rec) end
end

-- The entries of all indexes in order. `last` is the first end of an index that may have more: the page stops there.
local all, last = {}, nil
for number = 1, #INDEXES do
  local found, is_more = after(number)
  for _, entry in ipairs(found) do all[#all + 1] = entry end
  if is_more and (not last or is_before(found[#found], last)) then last = found[#found] end
end
table.sort(all, is_before)

local reply = {'history', NOW_TEXT, ''}
for i, entry in ipairs(all) do
  local full = #reply - 3 >= most or read >= READ
  if i > 1 and (full or last and is_before(last, entry)) then
    local seen = all[i - 1]
    reply[3] = seen.text .. ' ' .. seen.index .. ' ' .. seen.member
    return reply
  end
  local task, kept = open(entry)
  if task then reply[#reply + 1] = {task, kept} end
end
if last then reply[3] = last.text .. ' ' .. last.index .. ' ' .. last.member end
return reply
