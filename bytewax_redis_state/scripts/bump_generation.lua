-- Give a start its generation: the next number, with the ID of the start.
-- KEYS[1] generation
-- ARGV[1] start ID
-- Returns the number.
-- Invariant: numbers only grow. The ID tells two starts apart if Redis loses a number and gives it
-- again.
local held = redis.call('GET', KEYS[1]) or '0'
local next = string.format('%.0f', number_of(KEYS[1], 'value', held) + 1)
if #next > 15 then
  damaged(KEYS[1], 'value', held)
end
redis.call('SET', KEYS[1], next .. '-' .. ARGV[1])
return tonumber(next)
