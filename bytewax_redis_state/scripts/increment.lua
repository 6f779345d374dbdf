-- Add to a plain integer, which starts at 0.
-- KEYS[1] key
-- ARGV[1] number to add  ARGV[2] TTL in ms for a new key, '' for no end
-- Returns {sum as text}, or {'', the server's error} if the value is no integer or the sum too large.
-- Invariant: no addition is lost, and a key that exists keeps its TTL.
local is_new = redis.call('EXISTS', KEYS[1]) == 0
local sum = redis.pcall('INCRBY', KEYS[1], ARGV[1])
if type(sum) == 'table' then
  return {'', sum.err}
end
if is_new and ARGV[2] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
-- The sum is read again as text, because a Lua number holds only 53 of its 64 bits.
return {redis.call('GET', KEYS[1])}
