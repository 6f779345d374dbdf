-- Delete journal and progress of a partition that no start will read again.
-- KEYS[1] journal  KEYS[2] progress
-- ARGV[1] generation of the start whose fence must be on it, or '' for any
-- ARGV[2] run ID of the server when the newer manifest was written, or '' if there are several servers
-- Returns the number of keys that were deleted.
-- Invariant: a server that was restarted since may have lost the newer manifest. A start from the
-- older one reads the partition, so the partition stays.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[2], 'fenced') ~= ARGV[1] then
  return 0
end
if ARGV[2] ~= '' and not string.find(redis.call('INFO', 'server'), ARGV[2], 1, true) then
  return 0
end
return redis.call('UNLINK', KEYS[1], KEYS[2])
