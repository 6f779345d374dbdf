-- Read keys with the time that each has left, as far as the answer stays small.
-- KEYS[1] a key  KEYS[2..] more keys
-- ARGV[1] bytes of values after which to stop; at least one key is read
-- Returns {time in ms, values, TTLs}; a value is nil where no key is, 1 where it is no string; TTLs are in ms, -1 for no end, and left out where no key has one.
-- Invariant: a value and its TTL are of one moment.
local limit, size, expiring = tonumber(ARGV[1]), 0, false
local call, pcall = redis.call, redis.pcall
-- A third of the work is asking for TTLs, so they are left alone where the server knows of none.
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
