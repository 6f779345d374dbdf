-- Give a start its generation: the next number, with the ID of the start.
-- KEYS[1] generation
-- ARGV[1] start ID
-- Returns the number.
-- Invariant: numbers only grow. The ID tells two starts apart if Redis loses a number and gives it
-- again.
local held = redis.call('GET', KEYS[1]) or '0'
local number = string.match(held, '^%d+')
if not number then
  return redis.error_reply('LOST the generation counter is no number')
end
local next = string.format('%.0f', number + 1)
redis.call('SET', KEYS[1], next .. '-' .. ARGV[1])
return tonumber(next)
