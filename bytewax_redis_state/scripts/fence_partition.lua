-- Fence a partition of an older generation, so that its writer is refused, and read its progress.
-- KEYS[1] journal  KEYS[2] progress
-- ARGV[1] incarnation  ARGV[2] generation of the partition  ARGV[3] generation of the start
-- Returns {epoch, trimmed, time}, or nil if progress or journal is missing or of another incarnation.
-- Invariant: fence and read are one step, so no append can fall between them.
local function number_of(generation)
  return tonumber(string.match(generation, '^%d+'))
end

local have = redis.call('HMGET', KEYS[2], 'incarnation', 'generation', 'epoch', 'trimmed', 'time', 'fenced')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] or redis.call('EXISTS', KEYS[1]) == 0 then
  return nil
end
if number_of(have[6] or '0') < number_of(ARGV[3]) then
  redis.call('HSET', KEYS[2], 'fenced', ARGV[3])
end
return {have[3], have[4], have[5]}
