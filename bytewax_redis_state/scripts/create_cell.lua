-- Make a cell for a step that the flow has not had before.
-- KEYS[1] applied
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] epoch that counts as applied
-- Returns the live count of the cell.
-- Invariant: a cell with keys is never made anew; one left by a start that died is taken over empty.
local count = redis.call('HGET', KEYS[1], 'count')
if count and count ~= '0' then
  return tonumber(count)
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'generation', ARGV[2], 'epoch', ARGV[3], 'count', '0')
return 0
