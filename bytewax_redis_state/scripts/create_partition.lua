-- Make the journal and the progress of an outbox partition for a new generation.
-- KEYS[1] journal  KEYS[2] progress
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] resume epoch
-- Returns 1, or 0 if only one of the keys exists, or they belong to another incarnation, or to another
-- start that Redis gave the same number.
-- Invariant: only a start makes these keys, and it replaces none. An append finds them or refuses.
-- Progress counts the entries of the journal from the beginning.
local there = redis.call('EXISTS', KEYS[1], KEYS[2])
if there > 0 then
  local have = redis.call('HMGET', KEYS[2], 'incarnation', 'generation')
  return (there == 2 and have[1] == ARGV[1] and have[2] == ARGV[2]) and 1 or 0
end
redis.call('XADD', KEYS[1], '0-1', 'c', '')
redis.call('XDEL', KEYS[1], '0-1')
local now = redis.call('TIME')
local time = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('HSET', KEYS[2], 'incarnation', ARGV[1], 'generation', ARGV[2], 'epoch', ARGV[3],
  'row', '0', 'trimmed', ARGV[3], 'time', time, 'entries', '0', 'last', '0-1')
return 1
