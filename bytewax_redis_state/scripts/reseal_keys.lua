-- Write values of one cell anew that other keys protect; what they hold and their expiry stay.
-- KEYS[1] applied  KEYS[2..] state keys, none twice
-- ARGV[1] incarnation  ARGV[2] generation
-- ARGV[3..] for each key how its value begins, check sum included, and the value to replace it
-- Returns the number of values that were replaced; nil where the cell is not the writer's.
-- Invariant: a value that changed since it was read stays as it is, and no key is made.
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
