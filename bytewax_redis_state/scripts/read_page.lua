-- Read keys with the TTL that each has left, until the answer is large enough.
-- KEYS[1] a key  KEYS[2..] more keys
-- ARGV[1] bytes of values after which to stop; at least one key is read
-- Returns {time in ms, values, TTLs}. A value is nil if the key is missing, 1 if it holds no string.
-- TTLs are in ms, -1 for no end, and left out if no key has one.
-- Invariant: a value and its TTL are read at the same moment.
local limit, size, expiring = tonumber(ARGV[1]), 0, false
local call, pcall = redis.call, redis.pcall
-- Asking for TTLs is a third of the work, so it is left out if the database has no key with one.
local keyspace = pcall('INFO', 'keyspace')
local ask = type(keyspace) ~= 'string' or string.find(keyspace, 'expires=[1-9]')
local values, ttls = {}, {}
for i = 1, #KEYS do
  local value = pcall('GET', KEYS[i])
  if type(value) == 'string' then
    size = size + #value
  elseif value then
    if not string.find(value.err, 'WRONGTYPE') then
      return value
    end
    value = 1
  end
  values[i] = value
  if ask then
    local ttl = value and call('PTTL', KEYS[i]) or -1
    ttls[i] = ttl
    expiring = expiring or ttl ~= -1
  end
  if size >= limit then
    break
  end
end
local now = redis.call('TIME')
return {now[1] * 1000 + math.floor(now[2] / 1000), values, expiring and ttls or {}}
