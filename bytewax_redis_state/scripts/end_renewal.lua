-- Let a flow that was founded anew be resumed again.
-- KEYS[1] manifest
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] first epoch that can be resumed from
-- Returns 1, or 0 where the manifest is not the writer's.
-- Invariant: keys are never made here.
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'renewing', '', 'resume_epoch', ARGV[3])
return 1
