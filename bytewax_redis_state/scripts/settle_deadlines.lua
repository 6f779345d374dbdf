-- Subtract the keys that Redis has expired from the counts of one cell.
-- KEYS[1] applied
-- ARGV[1] incarnation  ARGV[2] generation
-- ARGV[3] ms from a deadline to the PXAT of its key, for every key now, or '' if that has not changed
-- ARGV[4..] deadline, number of keys that have expired, …
-- Returns the live count; nil if the cell is not the writer's.
-- Invariant: the live count and the counts of deadlines change together.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'count')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then
  return nil
end
local count = whole(KEYS[1], 'count', have[3])
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
return count - gone
