-- Put a value, and return the value before.
-- KEYS[1] key
-- ARGV[1] value  ARGV[2] TTL in ms, '' for no end
-- Returns the value before, nil if there was none.
-- Invariant: each value that was put is returned at most once.
local before = redis.call('GET', KEYS[1])
if ARGV[2] == '' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return before
