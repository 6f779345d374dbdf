-- Let a flow be resumed again whose keys were rebuilt after Redis had lost them.
-- KEYS[1] manifest
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] first epoch that can be resumed from
-- Returns 1, or 0 if the manifest is not the writer's.
-- Invariant: no key is made here.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'renewing', '', 'resume_epoch', ARGV[3])
return 1
