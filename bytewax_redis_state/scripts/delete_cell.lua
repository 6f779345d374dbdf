-- Delete a cell that no manifest names any longer, after its keys were deleted.
-- KEYS[1] applied
-- ARGV[1] generation of the start that must have fenced it
-- ARGV[2] run ID of the server when the newer manifest was written, or '' if there are several servers
-- Returns the number of keys that were deleted.
-- Invariant: a server that was restarted since may have lost the newer manifest. The older one names
-- the cell, so the cell stays.
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return 0
end
if ARGV[2] ~= '' and not string.find(redis.call('INFO', 'server'), ARGV[2], 1, true) then
  return 0
end
return redis.call('UNLINK', KEYS[1])
