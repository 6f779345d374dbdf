-- Read values, and start the TTL again of those that have one.
-- KEYS[1..] keys
-- ARGV[1] TTL in ms
-- Returns one value per key, nil if there is none.
-- Invariant: a key without a TTL gets none.
local values = {}
for i = 1, #KEYS do
  local value = redis.call('GET', KEYS[i])
  if value and redis.call('PTTL', KEYS[i]) > 0 then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
  values[i] = value
end
return values
