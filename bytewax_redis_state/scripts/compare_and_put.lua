-- Put a value if the stored one has the version that the caller saw.
-- KEYS[1] key
-- ARGV[1] version, as SHA-1 of the stored bytes in hex, '' for no value
-- ARGV[2] value  ARGV[3] TTL in ms, '' for no end
-- Returns 1 if the value was put, 0 if there is another version.
-- Invariant: no value is overwritten that the caller did not see.
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
