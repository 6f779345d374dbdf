-- Count out the keys of one cell that Redis has dropped past their deadlines.
-- KEYS[1] applied
-- ARGV[1] incarnation  ARGV[2] generation
-- ARGV[3] what every key's PXAT adds to its deadline by now, in ms, or '' where that is as it was
-- ARGV[4..] deadline, number of keys that have gone, …
-- Returns the live count; nil where the cell is not the writer's.
-- Invariant: the live count and the counts of deadlines change together.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then
  return nil
end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'slack', ARGV[3])
end
local gone = 0
for i = 4, #ARGV, 2 do
  gone = gone + ARGV[i + 1]
  if redis.call('HINCRBY', KEYS[1], 'd' .. ARGV[i], '-' .. ARGV[i + 1]) == 0 then
    redis.call('HDEL', KEYS[1], 'd' .. ARGV[i])
  end
end
if gone > 0 then
  redis.call('HINCRBY', KEYS[1], 'count', -gone)
end
return tonumber(redis.call('HGET', KEYS[1], 'count'))
