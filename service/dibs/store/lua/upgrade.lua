-- upgrade.lua: say that the data has the next format, where it has the one before.
--
-- KEYS[1] the format   ARG.before   .after
-- The format that it has now.
-- Safe to run twice, and to be interrupted: it is one write. O(1).

if redis.call('GET', KEYS[1]) == ARG.before then
  redis.call('DEL', KEYS[1])  -- a full store refuses a script's first growing write, and none after it
  redis.call('SET', KEYS[1], ARG.after)
end
return redis.call('GET', KEYS[1])
