-- Set the expiry of state keys of one cell; their deadlines stay.
-- KEYS[1] applied  KEYS[2..] state keys, none twice
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3..] PXAT of each key, in ms
-- Returns the number of keys that exist; nil if the cell is not the writer's.
-- Invariant: only a writer of the cell's generation changes its keys.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then
  return nil
end
local moved = 0
for i = 2, #KEYS do
  moved = moved + redis.call('PEXPIREAT', KEYS[i], ARGV[1 + i])
end
return moved
