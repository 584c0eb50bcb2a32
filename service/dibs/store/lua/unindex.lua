-- unindex.lua: take a project of which nothing is kept out of the index of projects.
--
-- KEYS[1] the index, by when a service last put the project there   ARG.project project
-- ARG.before_ms only if that was before, ms: a service that has put it there later may count on it
--
-- 1 | 0: whether it went
-- Safe to run twice. O(log projects).

local put_ms = redis.call('ZSCORE', KEYS[1], ARG.project)
if put_ms and tonumber(put_ms) < tonumber(ARG.before_ms) then return redis.call('ZREM', KEYS[1], ARG.project) end
return 0
