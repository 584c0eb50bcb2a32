-- faces.lua: the branch and the pull request of a task's tenure, by which who knows only those finds it.
--
--   :branch:NAME, :pr:URL   the tasks whose record names it, of this tenure or of the one before

local function face(field, value) return PREFIX .. ':' .. field .. ':' .. value end

local function add_face(task, field, value)
  if not value then return end
  local added = redis.pcall('SADD', face(field, value), task)
  if type(added) == 'table' then
    call('DEL', face(field, value))  -- something else lies there
    call('SADD', face(field, value), task)
  end
end

local function drop_face(task, field, value)
  if value then redis.pcall('SREM', face(field, value), task) end
end

-- Write a branch or pull request into the record of `task`.
local function set_face(task, rec, field, value)
  local was = rec[field]
  if was == value then return end
  if was ~= rec['last_' .. field] then drop_face(task, field, was) end
  rec[field] = value
  add_face(task, field, value)
end

-- A new tenure begins, `fresh`: what the one before had is the one before's now.
local function pass_faces(task, rec, fresh)
  for _, field in ipairs({'branch', 'pr'}) do
    local last, now = rec['last_' .. field], fresh[field]
    if last ~= rec[field] and last ~= now then drop_face(task, field, last) end
    if now ~= rec[field] then add_face(task, field, now) end
  end
end

local function drop_faces(task, rec)
  for _, field in ipairs({'branch', 'pr'}) do
    drop_face(task, field, rec[field])
    drop_face(task, field, rec['last_' .. field])
  end
end
