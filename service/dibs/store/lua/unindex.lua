-- unindex.lua: remove a project without data from the index of projects.
--
-- KEYS[1] the index of projects, by when a service last added each   ARG.project
-- ARG.before_ms: remove it only if it was last added before this time; a service that added it later relies on it
--
-- 1 | 0: whether it was removed
-- Safe to run twice. O(log projects).

local put_ms = redis.call('ZSCORE', KEYS[1], ARG.project)
if put_ms and tonumber(put_ms) < tonumber(ARG.before_ms) then return redis.call('ZREM', KEYS[1], ARG.project) end
return 0
