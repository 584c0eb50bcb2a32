-- delivery.lua: what a forge has told before, so that nobody tells it again.
--
-- ARG.id: what names the delivery   ARG.digest: of its body, which alone is signed
-- ARG.thing: '' or what it is about, a pull request or an issue   ARG.at_ms: when that was changed last, '0'
-- ARG.keep: '' to look; '1' once what it calls for is done
--
-- {'new', now} {'replayed', now} {'overtaken', now}: something later was told of the thing
-- {'old', now}   the thing was changed last longer ago than a forge sends again, and is remembered here
-- {'stalled', now}
-- Safe to run twice. O(log MOST).
--- @include common.lua

local TOLD_BEFORE = PREFIX .. ':deliveries'  -- by when, or for a thing, by when it was changed last
local MOST = 4000
local OLDEST_MS = 7 * 86400000  -- GitHub sends again for three days; the sweep forgets after eight

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
