-- Delete state keys of one cell that the user gave up, and subtract them from the live count.
-- KEYS[1] applied  KEYS[2..] state keys, none twice
-- ARGV[1] incarnation  ARGV[2] generation
-- Returns the number of keys that were deleted; nil if the cell is not the writer's.
-- Invariant: the live count equals the number of keys.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'count')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then
  return nil
end
whole(KEYS[1], 'count', have[3])
local gone = redis.call('UNLINK', unpack(KEYS, 2))
if gone > 0 then
  redis.call('HINCRBY', KEYS[1], 'count', -gone)
end
return gone
