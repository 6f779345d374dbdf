-- Replace values of one cell by the same values under other encryption or signing keys.
-- KEYS[1] applied  KEYS[2..] state keys, none twice
-- ARGV[1] incarnation  ARGV[2] generation
-- ARGV[3..] per key: the first bytes of its stored value, with the check sum, and the new value
-- Returns the number of values that were replaced; nil if the cell is not the writer's.
-- Invariant: a value that changed since it was read stays, the expiry stays, and no key is made.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then
  return nil
end
local replaced = 0
for i = 2, #KEYS do
  local begins, value = ARGV[2 * i - 1], ARGV[2 * i]
  if redis.call('GETRANGE', KEYS[i], 0, #begins - 1) == begins then
    redis.call('SET', KEYS[i], value, 'KEEPTTL')
    replaced = replaced + 1
  end
end
return replaced
