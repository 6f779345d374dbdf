-- Put a value if what is there is of the version that the caller saw.
-- KEYS[1] key
-- ARGV[1] version, as SHA-1 of the stored bytes in hex, '' for nothing there
-- ARGV[2] value  ARGV[3] TTL in ms, '' for no end
-- Returns 1 if it was put, 0 if another version is there.
-- Invariant: nothing is overwritten that the caller did not see.
local have = redis.call('GET', KEYS[1])
if (have and redis.sha1hex(have) or '') ~= ARGV[1] then
  return 0
end
if ARGV[3] == '' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
