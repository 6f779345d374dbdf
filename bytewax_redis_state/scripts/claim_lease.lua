-- Take a lease that is free, belongs to the caller, or belongs to an owner that may be replaced.
-- KEYS[1] lease
-- ARGV[1] owner  ARGV[2] value (JSON with the owner as "id")  ARGV[3] milliseconds
-- ARGV[4] owner that may be replaced, '' for none, '*' for any
-- Returns nil if the lease was taken, else the value of the holder.
-- Invariant: a lease has one owner at a time.
local held = redis.call('GET', KEYS[1])
if held then
  local holder = cjson.decode(held)['id']
  if holder ~= ARGV[1] and ARGV[4] ~= '*' and holder ~= ARGV[4] then
    return held
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return nil
