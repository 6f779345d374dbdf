-- Put a value where nothing is.
-- KEYS[1] key
-- ARGV[1] value  ARGV[2] TTL in ms, '' for no end
-- Returns 1 if it was put, 0 if something was there.
-- Invariant: of several callers one puts its value; value and TTL come together.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
if ARGV[2] == '' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
