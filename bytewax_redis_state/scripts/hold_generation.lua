-- Write the generation counter once more, so that waiting for that write is waiting for the counter.
-- KEYS[1] generation
-- ARGV[1] where it stands
-- Returns 1, or 0 where it stands elsewhere by now.
-- Invariant: the counter is not changed here.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
