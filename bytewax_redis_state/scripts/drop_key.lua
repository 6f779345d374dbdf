-- Delete one state key that the user gave up, and count it out.
-- KEYS[1] applied  KEYS[2] state key
-- ARGV[1] incarnation  ARGV[2] generation
-- Returns 1 where the key was there, else 0; nil where the cell is not the writer's.
-- Invariant: the live count equals the number of keys.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then
  return nil
end
local gone = redis.call('UNLINK', KEYS[2])
if gone == 1 then
  redis.call('HINCRBY', KEYS[1], 'count', -1)
end
return gone
