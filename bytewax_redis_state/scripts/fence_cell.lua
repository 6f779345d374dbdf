-- Fence a cell, so that folds of older generations are refused, and read the cell.
-- KEYS[1] applied
-- ARGV[1] incarnation  ARGV[2] generation of the start
-- Returns all fields of the cell as {field, value, …}; {} if the cell is missing.
-- Invariant: the generation of a cell only grows within one incarnation. If Redis gave two starts the
-- same number, the first one keeps the cell.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation')
if have[1] == ARGV[1]
  and number_of(KEYS[1], 'generation', have[2]) < number_of('ARGV', 'start', ARGV[2]) then
  redis.call('HSET', KEYS[1], 'generation', ARGV[2])
end
return redis.call('HGETALL', KEYS[1])
