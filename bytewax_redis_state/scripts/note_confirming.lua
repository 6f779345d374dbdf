-- Make a write that follows all rows up to one, so that waiting for it is waiting for them.
-- KEYS[1] progress
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] row
-- Returns the epoch below which everything is in the journal, or 0 where the partition is not the
-- writer's, or has not come as far.
-- Invariant: keys are never made here.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'fenced', 'row', 'epoch')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] or have[3] or tonumber(have[4]) < tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[1], 'confirming', ARGV[3])
return tonumber(have[5])
