-- Note in the manifest which steps have pickled state, before the first pickle of each is sent.
-- KEYS[1] manifest
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3..] short name of a step, …
-- Returns 1; 0 if the manifest is missing, or another start's.
-- Invariant: no key is made here, and a step that was noted stays noted.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then
  return 0
end
for i = 3, #ARGV do
  redis.call('HSET', KEYS[1], 'pickled:' .. ARGV[i], '1')
end
return 1
