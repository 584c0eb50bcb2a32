-- selftest.lua: tries the commands and the Lua that the other scripts and the service need. Leaves no keys.
--
-- KEYS[1] a unique prefix; the keys below are built from it, as in every script
--
-- {what, error, what, error…}   what failed: a command, or 'Lua: …'; error '' if it only returned a
--                               wrong value
-- O(1).

local PREFIX = KEYS[1]
local failed = {}
local function fail(what, why) failed[#failed + 1], failed[#failed + 2] = what, why end

local function try(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) == 'table' and reply.err then
    fail(command, reply.err)
    return nil
  end
  return reply
end

-- Run a command; it fails if `right` rejects its reply.
local function expect(right, command, ...)
  local reply = try(command, ...)
  if reply ~= nil and not right(reply) then fail(command, '') end
end

local function is(wanted)
  return function(reply) return reply == wanted end
end
local function first_is(wanted)
  return function(reply) return type(reply) == 'table' and reply[1] == wanted end
end
local function one(reply) return type(reply) == 'table' and #reply == 1 end

local function key(name) return PREFIX .. ':' .. name end
local function forget(name) try('PEXPIRE', key(name), '10000') end  -- in case DEL is missing

-- A full store refuses a script's first growing write, unless the script has written already.
expect(is(0), 'DEL', key('none'))
expect(function(reply) return #reply == 2 and tonumber(reply[1]) ~= nil end, 'TIME')

local json, decoded = pcall(function() return cjson.decode(cjson.encode({a = '1'})).a end)
if not json or decoded ~= '1' then fail('Lua: cjson', '') end
local spread, second = pcall(function() return (select(2, unpack({1, 2}))) end)
if not spread or second ~= 2 then fail('Lua: unpack', '') end
local formed, text = pcall(string.format, '%d', math.floor(1.7e15))
if not formed or text ~= '1700000000000000' then fail('Lua: numbers past 2^32', '') end

expect(is(false), 'SET', key('text'), '', 'XX')
try('SET', key('text'), 'a')
forget('text')
try('SET', key('text'), 'b', 'KEEPTTL')
expect(is('b'), 'GET', key('text'))
expect(first_is('b'), 'MGET', key('text'), key('none'))
expect(is(1), 'STRLEN', key('text'))
expect(is(1), 'EXISTS', key('text'))
expect(is(1), 'PERSIST', key('text'))
forget('text')

expect(is(2), 'HSET', key('hash'), 'a', '1', 'b', '2')
forget('hash')
expect(is('1'), 'HGET', key('hash'), 'a')
expect(function(reply) return reply[1] == '2' and reply[2] == false end, 'HMGET', key('hash'), 'b', 'c')
expect(is(1), 'HEXISTS', key('hash'), 'a')
expect(is(3), 'HINCRBY', key('hash'), 'b', '1')
expect(is(1), 'HDEL', key('hash'), 'b')
expect(is(1), 'HLEN', key('hash'))
expect(first_is('a'), 'HGETALL', key('hash'))

expect(is(2), 'LPUSH', key('list'), 'a', 'b')
forget('list')
expect(first_is('b'), 'LRANGE', key('list'), '0', '-1')
expect(is('b'), 'LPOP', key('list'))
expect(is('a'), 'RPOP', key('list'))
expect(is(1), 'LPUSH', key('list'), 'c')
expect(is(1), 'LREM', key('list'), -1, 'c')

expect(is(1), 'SADD', key('set'), 'a')
forget('set')
expect(is(1), 'SCARD', key('set'))
expect(first_is('a'), 'SMEMBERS', key('set'))
expect(first_is('a'), 'SRANDMEMBER', key('set'), '5')
expect(is(1), 'SREM', key('set'), 'a')

expect(is(2), 'ZADD', key('sorted'), '1', 'a', '2', 'b')
forget('sorted')
expect(is('1'), 'ZSCORE', key('sorted'), 'a')
expect(first_is('1'), 'ZMSCORE', key('sorted'), 'a', 'c')
expect(is(2), 'ZCARD', key('sorted'))
expect(is(1), 'ZCOUNT', key('sorted'), '2', '+inf')
expect(first_is('a'), 'ZRANGE', key('sorted'), '0', '-1')
expect(first_is('b'), 'ZREVRANGE', key('sorted'), '0', '0')
expect(first_is('b'), 'ZRANGEBYSCORE', key('sorted'), '(1', '+inf', 'LIMIT', '0', '1')
expect(first_is('b'), 'ZREVRANGEBYSCORE', key('sorted'), '+inf', '(1', 'LIMIT', '0', '1')
expect(is(1), 'ZREM', key('sorted'), 'b')
expect(is(0), 'ZREMRANGEBYRANK', key('sorted'), '5', '9')
expect(is(1), 'ZREMRANGEBYSCORE', key('sorted'), '-inf', '1')

try('XADD', key('stream'), '*', 'a', '1')
forget('stream')
expect(one, 'XRANGE', key('stream'), '-', '+', 'COUNT', '2')
expect(one, 'XREVRANGE', key('stream'), '+', '-', 'COUNT', '2')
expect(is(0), 'XTRIM', key('stream'), 'MINID', '1-1')

expect(is(1), 'PFADD', key('tally'), 'a')
forget('tally')
expect(is(1), 'PFCOUNT', key('tally'))

for _, name in ipairs({'text', 'hash', 'list', 'set', 'sorted', 'stream', 'tally'}) do
  redis.pcall('DEL', key(name))
end
return failed
