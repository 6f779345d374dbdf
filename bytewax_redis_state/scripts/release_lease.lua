-- Give a lease back if it is still one's own.
-- KEYS[1] lease
-- ARGV[1] owner
-- Returns 1 where it was given back, else 0.
-- Invariant: nobody ends another owner's lease.
local held = redis.call('GET', KEYS[1])
if held and cjson.decode(held)['id'] == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
