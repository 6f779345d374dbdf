-- Fence a partition of an older generation, so that its writer is refused, and read it.
-- KEYS[1] journal  KEYS[2] progress
-- ARGV[1] incarnation  ARGV[2] generation of the partition  ARGV[3] generation of the start
-- Returns {fields of progress as {field, value, …}, whether the journal exists, how many entries it
-- holds, ID of its newest entry or ''}.
-- Invariant: fence and read are one step, so no append can fall between them. Progress of another
-- incarnation or writer is read, but not fenced.
local have = redis.call('HMGET', KEYS[2], 'incarnation', 'generation', 'fenced')
if have[1] == ARGV[1] and have[2] == ARGV[2]
  and number_of(KEYS[2], 'fenced', have[3] or '0') < number_of('ARGV', 'start', ARGV[3]) then
  redis.call('HSET', KEYS[2], 'fenced', ARGV[3])
end
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {
  redis.call('HGETALL', KEYS[2]),
  redis.call('EXISTS', KEYS[1]),
  redis.call('XLEN', KEYS[1]),
  newest and newest[1] or '',
}
