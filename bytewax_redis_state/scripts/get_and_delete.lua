-- Read a value and delete it.
-- KEYS[1] key
-- ARGV[1..] none
-- Returns the value, nil if there was none.
-- Invariant: only one of several callers gets the value.
local value = redis.call('GET', KEYS[1])
if value then
  redis.call('UNLINK', KEYS[1])
end
return value
