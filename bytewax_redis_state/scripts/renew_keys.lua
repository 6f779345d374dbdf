-- Move the expiry of state keys of one cell, whose deadlines stay as they are.
-- KEYS[1] applied  KEYS[2..] state keys, none twice
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3..] PXAT of each key, in ms
-- Returns the number of keys that were there; nil where the cell is not the writer's.
-- Invariant: only who holds the cell's generation moves anything in it.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then
  return nil
end
local moved = 0
for i = 2, #KEYS do
  moved = moved + redis.call('PEXPIREAT', KEYS[i], ARGV[1 + i])
end
return moved
