-- Note the epoch below which every row is on all replicas, so that it may be folded on another node.
-- KEYS[1] progress
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] epoch
-- Returns 1, or 0 if the partition is not the writer's.
-- Invariant: no key is made here, and the safe epoch only grows.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'fenced', 'safe')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] or have[3] then
  return 0
end
if whole(KEYS[1], 'safe', have[4] or '0') < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], 'safe', ARGV[3])
end
return 1
