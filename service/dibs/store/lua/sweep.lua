-- sweep.lua: write down deadlines that have passed, so that people hear of them, and drop what is
-- past its retention. Correctness never waits for it: every act looks at the deadline itself.
--
-- {'swept', now, more: 1 | '', held, parked, lapsed, done, tickets, lapses, breaks}
--   held, parked, lapsed, done, tickets: how many there are now   lapses, breaks: how many ever
-- Safe to run twice: a lapse that is written down is not overdue any more. O(log live claims +
-- tickets) when nothing is due, at most 100 lapses a run.
-- Follows common.lua, tenure.lua.

local due = call('ZRANGEBYSCORE', LIVE, '-inf', NOW, 'LIMIT', 0, 100)
for _, task in ipairs(due) do
  local rec = load(task)
  if not live(rec) then
    call('ZREM', LIVE, task)
  elseif overdue(rec) then
    settle(task, rec)
  else
    let_holder_write()
    call('ZADD', LIVE, text(rec.due_at), task)  -- a stall moved the deadline
  end
end
call('ZREMRANGEBYSCORE', LAPSED, '-inf', NOW - RULES.retention_ms)
call('ZREMRANGEBYSCORE', DONE, '-inf', NOW - RULES.done_retention_ms)

local waiting = 0
for _, task in ipairs(call('SMEMBERS', QUEUED)) do
  local found = #tickets(task)
  waiting = waiting + found
  if found == 0 then
    let_holder_write()
    call('SREM', QUEUED, task)
  end
end

local live_now, parked = call('ZCARD', LIVE), call('SCARD', PARKED)
local ever = call('HMGET', META, 'lapses', 'breaks')
return answer('swept', #due == 100 and '1' or '', text(live_now - parked), text(parked),
              text(call('ZCARD', LAPSED)), text(call('ZCARD', DONE)), text(waiting),
              ever[1] or '0', ever[2] or '0')
