-- Give a lock back.
-- KEYS[1] lock
-- ARGV[1] owner
-- Returns 1 if it was still the owner's, else 0.
-- Invariant: only the owner frees it; the fencing token stays and goes on from there.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'owner', 'until')
return 1
