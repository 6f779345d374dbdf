-- Append outbox rows to the journal, and move progress with the last row of an epoch.
-- KEYS[1] journal  KEYS[2] progress
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] last row before  ARGV[4] last row after
-- ARGV[5] epoch of progress afterwards, or '' if it stays  ARGV[6..] epoch, row, cell, delta, …
-- Returns {'ok'}, {'moved', last row}, {'fenced', generation}, {'foreign', incarnation} or {'missing'}.
-- Invariant: each row enters once and in order, by compare-and-set on the last row. No key is made
-- here: a missing key means that Redis lost it.
local have = redis.call('HMGET', KEYS[2], 'incarnation', 'generation', 'row', 'fenced')
if not have[1] or redis.call('EXISTS', KEYS[1]) == 0 then
  return {'missing'}
elseif have[1] ~= ARGV[1] then
  return {'foreign', have[1]}
elseif have[2] ~= ARGV[2] then  -- Redis gave the number twice; another start has it
  return {'fenced', have[2]}
elseif have[4] then
  return {'fenced', have[4]}
elseif have[3] ~= ARGV[3] then
  return {'moved', have[3]}
end
for i = 6, #ARGV, 4 do
  redis.call('XADD', KEYS[1], ARGV[i] .. '-' .. ARGV[i + 1], 'c', ARGV[i + 2], 'd', ARGV[i + 3])
end
if ARGV[5] == '' then
  redis.call('HSET', KEYS[2], 'row', ARGV[4])
else
  local now = redis.call('TIME')
  local time = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('HSET', KEYS[2], 'row', ARGV[4], 'epoch', ARGV[5], 'time', time)
end
return {'ok'}
