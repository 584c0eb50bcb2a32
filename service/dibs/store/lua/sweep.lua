-- sweep.lua: write down deadlines that have passed, so that people hear of them, and drop what is
-- past its retention. Correctness never waits for it: every act looks at the deadline itself.
--
-- {'swept', now, more: 1 | '', live, lapsed, done}   live, lapsed, done: how many are indexed now
-- Safe to run twice: a lapse that is written down is not overdue any more. O(log live claims) when
-- nothing is due, at most 100 lapses a run.

local due = call('ZRANGEBYSCORE', LIVE, '-inf', NOW, 'LIMIT', 0, 100)
for _, task in ipairs(due) do
  local rec = load(task)
  if not live(rec) then
    call('ZREM', LIVE, task)
  elseif overdue(rec) then
    settle(task, rec)
  else
    call('ZADD', LIVE, text(rec.due_at), task)  -- a stall moved the deadline
  end
end
call('ZREMRANGEBYSCORE', LAPSED, '-inf', NOW - RULES.retention_ms)
call('ZREMRANGEBYSCORE', DONE, '-inf', NOW - RULES.done_retention_ms)
return answer('swept', #due == 100 and '1' or '', text(call('ZCARD', LIVE)),
              text(call('ZCARD', LAPSED)), text(call('ZCARD', DONE)))
