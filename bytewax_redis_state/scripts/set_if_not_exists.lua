-- Put a value if there is none.
-- KEYS[1] key
-- ARGV[1] value  ARGV[2] TTL in ms, '' for no end
-- Returns 1 if the value was put, 0 if there was one.
-- Invariant: only one of several callers puts its value, and value and TTL come together.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
if ARGV[2] == '' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
