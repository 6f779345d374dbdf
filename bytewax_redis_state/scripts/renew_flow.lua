-- Found a running flow again, in a Redis that came back empty.
-- KEYS[1] generation  KEYS[2] manifest
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3..] field, value, … of the manifest
-- Returns 1, or 0 if Redis holds the flow already.
-- Invariant: a flow that Redis holds is never founded again.
if redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then
  return 0
end
local now = redis.call('TIME')
local time = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('SET', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[2], 'incarnation', ARGV[1], 'generation', ARGV[2], 'time', time)
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
return 1
