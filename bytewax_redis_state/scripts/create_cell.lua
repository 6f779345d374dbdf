-- Make a cell for a step that the flow has not had before.
-- KEYS[1] applied
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] epoch that counts as applied
-- Returns the live count of the cell, or -1 if a start that is not older has made the cell.
-- Invariant: a cell with keys is never made again. An empty cell of a start that died is taken over.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'count')
if have[1] == ARGV[1] and have[2] ~= ARGV[2]
  and number_of(KEYS[1], 'generation', have[2]) >= number_of('ARGV', 'start', ARGV[2]) then
  return -1
elseif have[3] and have[3] ~= '0' then
  return whole(KEYS[1], 'count', have[3])
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'generation', ARGV[2], 'epoch', ARGV[3], 'count', '0')
return 0
