-- Read values, and let those that expire start their time anew.
-- KEYS[1..] keys
-- ARGV[1] TTL in ms
-- Returns one value per key, nil where there is none.
-- Invariant: a key without end stays without.
local values = {}
for i = 1, #KEYS do
  local value = redis.call('GET', KEYS[i])
  if value and redis.call('PTTL', KEYS[i]) > 0 then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
  values[i] = value
end
return values
