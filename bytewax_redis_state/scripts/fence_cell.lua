-- Shut a cell for folds of older generations, and read it.
-- KEYS[1] applied
-- ARGV[1] incarnation  ARGV[2] generation of the start
-- Returns all fields of the cell as {field, value, …}; {} where it is missing.
-- Invariant: the generation of a cell only grows within one incarnation.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation')
if have[1] == ARGV[1] and tonumber(have[2]) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], 'generation', ARGV[2])
end
return redis.call('HGETALL', KEYS[1])
