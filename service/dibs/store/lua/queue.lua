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

-- Whether the queue of `task` has room for SESSION; then its ticket there, nil without one.
local function room_in_queue(task)
  local waiting = tickets(task)
  for _, ticket in ipairs(waiting) do
    if ticket.session == SESSION then return true, ticket end
  end
  return #waiting < RULES.tickets_per_task, nil
end

-- Put SESSION into the queue of `task`, which has room for it, or renew its `ticket` there.
local function enqueue(task, rec, label, ticket)
  local key = PREFIX .. ':queue:' .. task
  local order = ticket and text(ticket.order) or text(increment('tickets', NOW_TEXT))
  local joined = ticket and text(ticket.joined) or NOW_TEXT
  call('HSET', key, SESSION, order .. ' ' .. joined .. ' ' .. text(NOW + RULES.ticket_ms) .. ' ' .. label)
  call('PERSIST', key)  -- 0.1.0 let it end by itself
  if not rec.queued then
    rec.queued = '1'
    resave(task, rec)
  end
  if not ticket then
    call('SADD', PREFIX .. ':queued', task)
    emit('queued', task, {owner = SESSION, label = label, fence = rec.fence})
  end
end

local WAITS_FOR = {held = true, cooling = true, reserved = true}

-- SESSION takes a place in the queue of each task that is `refused` for a reason that one can wait out, a ticket
-- that it has being renewed; or in none, and false, where one of them is full.
local function take_places(refused, label)
  local own = {}
  for i, refusal in ipairs(refused) do
    if WAITS_FOR[refusal[1]] then
      local room, ticket = room_in_queue(refusal[2])
      if not room then return false end
      own[i] = ticket or false
    end
  end
  for i, refusal in ipairs(refused) do
    if own[i] ~= nil then enqueue(refusal[2], refusal[3], label, own[i]) end
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
