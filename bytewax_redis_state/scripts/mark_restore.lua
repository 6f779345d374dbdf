-- Set, change or delete the marker of a restore if it is still the one that the caller saw.
-- KEYS[1] marker
-- ARGV[1] value seen, '' for none  ARGV[2] new value, '' for none
-- Returns 1 if done, 0 if another restore has changed the marker.
-- Invariant: a namespace has one restore at a time.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1
