-- Start the time of a lock again.
-- KEYS[1] lock
-- ARGV[1] owner  ARGV[2] TTL in ms
-- ARGV[3] how long Redis keeps the key after the holder's time is over, in ms
-- Returns 1 if the lock still belongs to the owner, else 0.
-- Invariant: a lock that another owner has taken stays as it is.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[2] + ARGV[3]))
return 1
