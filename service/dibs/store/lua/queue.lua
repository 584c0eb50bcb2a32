-- queue.lua: how SESSION joins and leaves the queue of a task, and how tickets are dropped.

-- Drop the tickets `these` from a queue; without `these` all that were not renewed in time, and return how many
-- remain. Without `these` the task must not be free: there each ticket gets its window, in order.
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

-- Return whether the queue of `task` has room for SESSION, and the ticket that SESSION has there, if any.
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
  call('PERSIST', key)  -- 0.1.0 set an expiry on it
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

-- Add SESSION to the queue of each `refused` task whose reason passes with time, or renew its ticket there. Returns
-- false, and adds it to none, if one of the queues is full.
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

-- Remove SESSION from the queue of `task`; return nil if it has no ticket there.
local function leave_queue(task, rec)
  local waiting = rec.queued and tickets(task) or {}
  for place, ticket in ipairs(waiting) do
    if ticket.session == SESSION then
      drop_tickets(task, rec, {{session = SESSION}})
      if #waiting == 1 then
        drop_tickets(task, rec)
        rec.queued = nil
      end
      -- The window of the next ticket starts now, not when this window did.
      if place == 1 then rec.turns_from = NOW_TEXT end
      resave(task, rec)
      return {task, state_now(task, rec), ''}
    end
  end
end
