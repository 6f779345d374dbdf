-- Set, change or take away the marker of a restore, where it still is what the caller saw.
-- KEYS[1] marker
-- ARGV[1] value seen, '' for none  ARGV[2] value to leave, '' for none
-- Returns 1 if done, 0 if another restore has changed it.
-- Invariant: one restore at a time owns a namespace.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1
