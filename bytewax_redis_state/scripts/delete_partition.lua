-- Delete journal and progress of a partition that no start will read any more.
-- KEYS[1] journal  KEYS[2] progress
-- ARGV[1] generation of the start whose fence must be on it, or '' for any
-- ARGV[2] run ID of the server when the newer manifest was there, or '' where there are several
-- Returns the number of keys that were deleted.
-- Invariant: a Redis that has gone back since then may need the partition again, and keeps it.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[2], 'fenced') ~= ARGV[1] then
  return 0
end
if ARGV[2] ~= '' and not string.find(redis.call('INFO', 'server'), ARGV[2], 1, true) then
  return 0
end
return redis.call('UNLINK', KEYS[1], KEYS[2])
