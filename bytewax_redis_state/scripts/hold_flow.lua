-- Write the manifest or the counter of a running flow again, where one of the two is gone.
-- KEYS[1] generation  KEYS[2] manifest
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3..] field, value, … of the manifest
-- Returns 'held' if there was nothing to do, 'manifest' or 'counter' if that was written again, or
-- 'gone' if both are missing.
-- Invariant: only a writer that the other one of the two names writes here, so a newer start's
-- manifest or counter is never replaced.
local counter = redis.call('GET', KEYS[1])
local have = redis.call('HMGET', KEYS[2], 'incarnation', 'generation')
if not counter and not have[1] then
  return 'gone'
elseif not counter and have[1] == ARGV[1] and have[2] == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[2])
  return 'counter'
elseif counter == ARGV[2] and redis.call('EXISTS', KEYS[2]) == 0 then
  for i = 3, #ARGV, 2 do
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
  return 'manifest'
end
return 'held'
