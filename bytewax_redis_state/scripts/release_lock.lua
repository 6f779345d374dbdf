-- Give a lock back.
-- KEYS[1] lock
-- ARGV[1] owner  ARGV[2] how long Redis keeps the key of a lock that nobody holds, in ms
-- Returns 1 if the lock still belonged to the owner, also when asked again; else 0.
-- Invariant: only the owner frees a lock. The fencing token stays, and the next owner's is higher.
local held = redis.call('HMGET', KEYS[1], 'owner', 'released')
if held[1] == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'owner', 'until')
  redis.call('HSET', KEYS[1], 'released', ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
return held[2] == ARGV[1] and 1 or 0
