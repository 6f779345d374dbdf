-- Put values that all have the same TTL.
-- KEYS[1..] keys
-- ARGV[1] TTL in ms  ARGV[2..] one value per key
-- Returns the number of keys.
-- Invariant: all values are put at once, and none without its TTL.
for i = 1, #KEYS do
  redis.call('PSETEX', KEYS[i], ARGV[1], ARGV[i + 1])
end
return #KEYS
