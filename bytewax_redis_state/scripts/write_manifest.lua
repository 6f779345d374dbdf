-- Replace the manifest if the counter still stands at the writer's generation.
-- KEYS[1] generation  KEYS[2] manifest
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3..] field, value, …
-- Returns 1, or 0 where another start has moved on or the flow's life is another.
-- Invariant: manifests follow one another in the order of their generations.
if redis.call('GET', KEYS[1]) ~= ARGV[2] or redis.call('HGET', KEYS[2], 'incarnation') ~= ARGV[1] then
  return 0
end
local now = redis.call('TIME')
local time = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('HSET', KEYS[2], 'generation', ARGV[2], 'time', time)
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
return 1
