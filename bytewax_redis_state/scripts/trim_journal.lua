-- Drop journal entries below an epoch that every cell has applied.
-- KEYS[1] journal  KEYS[2] progress
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] first epoch that stays
-- ARGV[4] run ID of the server before the fold, or '' for any: a restarted one may have lost the fold
-- Returns the epoch below which the journal is trimmed, nil if the partition is not the writer's,
-- or -1 if its keys are missing.
-- Invariant: the epoch of 'trimmed' only grows, and is never above the epoch that the writer gives.
-- Progress counts the entries that leave the journal here. Those that left it otherwise it goes on
-- counting, so that a start finds out.
local have = redis.call('HMGET', KEYS[2], 'incarnation', 'generation', 'trimmed', 'fenced', 'entries')
if not have[1] then
  return '-1'
elseif have[1] ~= ARGV[1] or have[2] ~= ARGV[2] or have[4] then
  return nil
end
if ARGV[4] ~= '' and not string.find(redis.call('INFO', 'server'), ARGV[4], 1, true) then
  return have[3]
end
if whole(KEYS[2], 'trimmed', have[3]) < tonumber(ARGV[3]) then
  local entries = whole(KEYS[2], 'entries', have[5])
  entries = entries - redis.call('XTRIM', KEYS[1], 'MINID', ARGV[3] .. '-0')
  redis.call('HSET', KEYS[2], 'trimmed', ARGV[3], 'entries', string.format('%.0f', entries))
  return ARGV[3]
end
return have[3]
