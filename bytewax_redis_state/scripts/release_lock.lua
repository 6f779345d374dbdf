-- Give a lock back.
-- KEYS[1] lock
-- ARGV[1] owner
-- Returns 1 if it was still the owner's, also when asked again; else 0.
-- Invariant: only the owner frees it; the fencing token stays and goes on from there.
local held = redis.call('HMGET', KEYS[1], 'owner', 'released')
if held[1] == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'owner', 'until')
  redis.call('HSET', KEYS[1], 'released', ARGV[1])
  return 1
end
return held[2] == ARGV[1] and 1 or 0
