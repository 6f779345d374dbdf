-- Say that a cell has applied every partition up to an epoch, and forget the partitions.
-- KEYS[1] applied
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] epoch
-- Returns the live count, or nil where the cell is missing, fenced or of another life.
-- Invariant: the applied epoch of a cell never goes back.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', 'count')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] or tonumber(have[3]) > tonumber(ARGV[3]) then
  return nil
end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.find(field, '^p%d') or string.find(field, '^mark%d') then
    redis.call('HDEL', KEYS[1], field)
  end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[3])
return tonumber(have[4])
