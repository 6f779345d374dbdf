-- Delete a cell that no manifest names any more; its keys are gone.
-- KEYS[1] applied
-- ARGV[1] generation of the start that must have fenced it
-- ARGV[2] run ID of the server when the newer manifest was there, or '' where there are several
-- Returns the number of keys that were deleted.
-- Invariant: a Redis that has gone back since then may name the cell again, and keeps it.
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return 0
end
if ARGV[2] ~= '' and not string.find(redis.call('INFO', 'server'), ARGV[2], 1, true) then
  return 0
end
return redis.call('UNLINK', KEYS[1])
