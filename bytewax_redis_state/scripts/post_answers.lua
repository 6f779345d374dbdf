-- Note how many shards of a process were asked for full deltas, and how many have answered.
-- KEYS[1] progress
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] shards asked
-- ARGV[4] answers in this partition's journal  ARGV[5] epoch of the last answer
-- Returns 1, or 0 if the partition is not the writer's.
-- Invariant: no key is made here.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'fenced')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] or have[3] then
  return 0
end
redis.call('HSET', KEYS[1], 'called', ARGV[3], 'answered', ARGV[4], 'whole', ARGV[5])
return 1
