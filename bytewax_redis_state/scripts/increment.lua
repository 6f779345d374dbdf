-- Add to a plain integer, which starts at 0.
-- KEYS[1] key
-- ARGV[1] what to add  ARGV[2] TTL in ms for a key that this makes, '' for no end
-- Returns {sum as text}, or {'', the server's error} where it can't be added up.
-- Invariant: no addition is lost; a key that counts keeps its deadline.
local is_new = redis.call('EXISTS', KEYS[1]) == 0
local sum = redis.pcall('INCRBY', KEYS[1], ARGV[1])
if type(sum) == 'table' then
  return {'', sum.err}
end
if is_new and ARGV[2] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
-- Read again: a Lua number holds 53 bits of the sum's 64.
return {redis.call('GET', KEYS[1])}
