-- Take a lock that is free, has run out, or belongs to the caller.
-- KEYS[1] lock
-- ARGV[1] owner  ARGV[2] TTL in ms
-- ARGV[3] how long Redis keeps the key after the holder's time is over, in ms
-- Returns {1, fencing token}, or {0, ms until the holder's time is over}.
-- Invariant: there is one owner at a time by the server's clock, and a later owner has a higher token.
-- Redis may have dropped the key of a lock that was not held for long. The first token of a new key
-- is the server's time in microseconds: a lock is taken less than once a microsecond, so that is
-- above all tokens that the old key gave.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'owner', 'until', 'token')
local owner, until_ms, token = held[1], tonumber(held[2]), tonumber(held[3])
if owner and owner ~= ARGV[1] and until_ms > now then
  return {0, until_ms - now}
end
if not token then
  token = time[1] * 1000000 + time[2]
elseif owner ~= ARGV[1] then
  token = token + 1
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'until', string.format('%.0f', now + ARGV[2]),
  'token', string.format('%.0f', token))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[2] + ARGV[3]))
return {1, token}
