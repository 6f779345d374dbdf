-- Write the generation counter once more, so that waiting for that write is waiting for the counter.
-- KEYS[1] generation
-- ARGV[1] value that the counter is expected to have
-- Returns 1, or 0 if the counter has another value.
-- Invariant: the value of the counter does not change.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
