-- delivery.lua: remembers the deliveries of a forge, so that none takes effect twice or out of order.
--
-- ARG.id: id of the delivery   ARG.digest: digest of its body, the only part that is signed
-- ARG.thing: '' or its pull request or issue   ARG.at_ms: when that changed last, '0' if unknown
-- ARG.keep: '' to check a delivery; '1' to remember it once its acts are done
--
-- {'new', now} {'replayed', now} {'overtaken', now}: a later change of the thing was delivered before
-- {'old', now}   the last change is more than OLDEST_MS ago: no forge repeats it, and a replay may be forgotten here
-- {'stalled', now}
-- Safe to run twice. O(log MOST).
--- @include common.lua

local TOLD_BEFORE = PREFIX .. ':deliveries'  -- by arrival; a thing by its last change
local MOST = 4000
local OLDEST_MS = 7 * 86400000  -- GitHub repeats deliveries for three days; the sweep drops them after eight

local function at(kind, name)
  local found = name ~= '' and redis.pcall('ZSCORE', TOLD_BEFORE, kind .. name)
  return type(found) == 'string' and tonumber(found) or nil
end

if ARG.keep == '' then
  if at('id ', ARG.id) or at('body ', ARG.digest) then return answer('replayed') end
  if ARG.at_ms ~= '0' and tonumber(ARG.at_ms) < NOW_US / 1000 - OLDEST_MS then return answer('old') end
  local last = at('of ', ARG.thing)
  if last and ARG.at_ms ~= '0' and last > tonumber(ARG.at_ms) then return answer('overtaken') end
  return answer('new')
end

bypass_oom_guard()
overwrite('ZADD', TOLD_BEFORE, NOW_TEXT, 'id ' .. ARG.id, NOW_TEXT, 'body ' .. ARG.digest)
if ARG.thing ~= '' and (at('of ', ARG.thing) or 0) < tonumber(ARG.at_ms) then
  call('ZADD', TOLD_BEFORE, ARG.at_ms, 'of ' .. ARG.thing)
end
local over = call('ZCARD', TOLD_BEFORE) - MOST
if over > 0 then call('ZREMRANGEBYRANK', TOLD_BEFORE, 0, over - 1) end
return answer('new')
