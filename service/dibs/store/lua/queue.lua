-- queue.lua: how SESSION takes a place in the queue of a task and leaves it, and how tickets go.

-- Take `these` tickets out of a queue; else those that nobody renewed in time, and return how many still
-- wait. The latter not while the task is free: there each ticket has a window, and they come in order.
local function drop_tickets(task, rec, these)
  local waiting = 0
  for _, ticket in ipairs(these or tickets(task, 'all')) do
    if not these and ticket.until_ms > NOW then
      waiting = waiting + 1
    else
      bypass_oom_guard()
      call('HDEL', PREFIX .. ':queue:' .. task, ticket.session)
      emit('unqueued', task, {owner = ticket.session, label = ticket.label, fence = rec.fence})
    end
  end
  return waiting
end

-- Put SESSION into the queue of `task`, or renew its ticket there; false where the queue is full.
local function enqueue(task, rec, label)
  local key, waiting = PREFIX .. ':queue:' .. task, tickets(task)
  local mine, order, joined
  for _, ticket in ipairs(waiting) do
    if ticket.session == SESSION then
      mine, order, joined = true, text(ticket.order), text(ticket.joined)
    end
  end
  if not mine then
    if #waiting >= RULES.tickets_per_task then return false end
    order, joined = text(increment('tickets', NOW_TEXT)), NOW_TEXT
  end
  call('HSET', key, SESSION, order .. ' ' .. joined .. ' ' .. text(NOW + RULES.ticket_ms) .. ' ' .. label)
  call('PERSIST', key)  -- 0.1.0 let it end by itself
  if not rec.queued then
    rec.queued = '1'
    resave(task, rec)
  end
  if not mine then
    call('SADD', PREFIX .. ':queued', task)
    emit('queued', task, {owner = SESSION, label = label, fence = rec.fence})
  end
  return true
end

-- Take SESSION out of the queue of `task`; nil where it has no place there.
local function leave_queue(task, rec)
  local waiting = rec.queued and tickets(task) or {}
  for place, ticket in ipairs(waiting) do
    if ticket.session == SESSION then
      drop_tickets(task, rec, {{session = SESSION}})
      if #waiting == 1 then
        drop_tickets(task, rec)
        rec.queued = nil
      end
      -- The next one's window starts now, not when this one's did.
      if place == 1 then rec.turns_from = NOW_TEXT end
      resave(task, rec)
      return {task, state_now(task, rec), ''}
    end
  end
end
