-- Give a lease back if it still belongs to the caller.
-- KEYS[1] lease
-- ARGV[1] owner
-- Returns 1 if the lease was given back, else 0.
-- Invariant: only its owner ends a lease.
local held = redis.call('GET', KEYS[1])
if held and cjson.decode(held)['id'] == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
