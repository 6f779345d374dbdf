-- Let the time of a lock start anew.
-- KEYS[1] lock
-- ARGV[1] owner  ARGV[2] TTL in ms
-- Returns 1 if it is still the owner's, else 0.
-- Invariant: a lock that somebody else took meanwhile is left alone.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + ARGV[2]))
return 1
