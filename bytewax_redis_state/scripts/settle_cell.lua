-- Note that a cell has applied every partition up to an epoch, and drop the fields per partition.
-- KEYS[1] applied
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] epoch  ARGV[4..] partitions that were folded
-- Returns the live count; nil if the cell is missing, fenced or of another incarnation; -1 if one of
-- the partitions is not applied up to the epoch, because a failover lost its fold.
-- Invariant: the applied epoch of a cell never goes back, and every partition is applied up to it.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', 'count')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2]
  or whole(KEYS[1], 'epoch', have[3]) > tonumber(ARGV[3]) then
  return nil
end
local count = whole(KEYS[1], 'count', have[4])
for i = 4, #ARGV do
  local partition = 'p' .. ARGV[i]
  local applied = whole(KEYS[1], partition, redis.call('HGET', KEYS[1], partition) or '0')
  if math.max(tonumber(have[3]), applied) < tonumber(ARGV[3]) then
    return -1
  end
end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.find(field, '^p%d') or string.find(field, '^mark%d')
    or string.find(field, '^chunk%d') then
    redis.call('HDEL', KEYS[1], field)
  end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[3])
return count
