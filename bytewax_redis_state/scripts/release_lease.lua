-- Give a lease back if it still belongs to the caller.
-- KEYS[1] lease
-- ARGV[1] owner
-- Returns 1 if the lease was given back, else 0.
-- Invariant: only its owner ends a lease.
local held = redis.pcall('GET', KEYS[1])
local is_json, lease = pcall(cjson.decode, type(held) == 'string' and held or '')
if is_json and type(lease) == 'table' and lease['id'] == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
