-- Take a lock that is free, has run out, or is one's own.
-- KEYS[1] lock
-- ARGV[1] owner  ARGV[2] TTL in ms
-- Returns {1, fencing token}, or {0, ms until the holder's time is over}.
-- Invariant: one owner at a time, by the server's clock; a later owner has a higher token.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'owner', 'until', 'token')
if held[1] and held[1] ~= ARGV[1] and tonumber(held[2]) > now then
  return {0, tonumber(held[2]) - now}
end
local token = held[3]
if held[1] ~= ARGV[1] then
  token = redis.call('HINCRBY', KEYS[1], 'token', 1)
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'until', string.format('%.0f', now + ARGV[2]))
return {1, tonumber(token)}
