-- Write after all rows up to one, so that a WAIT for this write is a WAIT for the rows.
-- KEYS[1] progress
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] row
-- Returns the epoch below which everything is in the journal, or 0 if the partition is not the
-- writer's, or has not shipped that row.
-- Invariant: no key is made here.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'fenced', 'row', 'epoch')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] or have[3]
  or whole(KEYS[1], 'row', have[4]) < tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[1], 'confirming', ARGV[3])
return whole(KEYS[1], 'epoch', have[5])
