-- lookup.lua: finds a task by the branch or the pull request of its tenure.
--
--   :branch:NAME, :pr:URL   the tasks whose record names it, for this tenure or the one before
-- An entry counts in the size of the records: sessions that invent branches pay for the keys.

local function lookup_key(field, value) return PREFIX .. ':' .. field .. ':' .. value end
local function lookup_weight(task, value) return #value + #task + 100 end

local function add_lookup(task, field, value)
  if not value then return end
  if overwrite('SADD', lookup_key(field, value), task) == 1 then RECORDS_GREW = RECORDS_GREW + lookup_weight(task, value) end
end

local function drop_lookup(task, field, value)
  if value and redis.pcall('SREM', lookup_key(field, value), task) == 1 then RECORDS_GREW = RECORDS_GREW - lookup_weight(task, value) end
end

-- Write a branch or pull request into the record of `task`, and update the index.
local function set_lookup_field(task, rec, field, value)
  local was = rec[field]
  if was == value then return end
  if was ~= rec['last_' .. field] then drop_lookup(task, field, was) end
  rec[field] = value
  add_lookup(task, field, value)
end

-- Update the indexes when the tenure `fresh` follows `rec`: drop what the tenure before `rec` had, add what `fresh` has.
local function pass_lookups(task, rec, fresh)
  for _, field in ipairs({'branch', 'pr'}) do
    local last, now = rec['last_' .. field], fresh[field]
    if last ~= rec[field] and last ~= now then drop_lookup(task, field, last) end
    if now ~= rec[field] then add_lookup(task, field, now) end
  end
end

-- Call `act` with each branch and pull request that a record names.
local function each_lookup(task, rec, act)
  for _, field in ipairs({'branch', 'pr'}) do
    local now, last = rec[field], rec['last_' .. field]
    if now then act(task, field, now) end
    if last and last ~= now then act(task, field, last) end
  end
end
