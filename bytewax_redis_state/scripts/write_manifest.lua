-- Replace the manifest if the counter still stands at the writer's generation.
-- KEYS[1] generation  KEYS[2] manifest
-- ARGV[1] incarnation  ARGV[2] generation
-- ARGV[3] run ID of the server that the start began on, or '' if there are several servers
-- ARGV[4..] field, value, …
-- Returns 1; 0 if another start has raised the counter or the incarnation is another; -1 if the server
-- was restarted, because it may have lost a fence that the start relies on.
-- Invariant: manifests follow one another in the order of their generations.
if redis.call('GET', KEYS[1]) ~= ARGV[2] or redis.call('HGET', KEYS[2], 'incarnation') ~= ARGV[1] then
  return 0
end
if ARGV[3] ~= '' and not string.find(redis.call('INFO', 'server'), ARGV[3], 1, true) then
  return -1
end
local now = redis.call('TIME')
local time = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('HSET', KEYS[2], 'generation', ARGV[2], 'time', time)
for i = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
return 1
