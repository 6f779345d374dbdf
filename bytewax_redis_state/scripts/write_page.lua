-- Write keys, each with its TTL, in place of the values that they held.
-- KEYS[1] a key  KEYS[2..] more keys, none twice
-- ARGV[1] a value  ARGV[2..] one value for each other key, then nothing, or one TTL in ms per key,
--   -1 for no end
-- Returns how many of the keys existed before.
-- Invariant: no key is ever seen with its new value and its old TTL.
local there = redis.call('EXISTS', unpack(KEYS))
local pairs_to_set = {}
for i = 1, #KEYS do
  local ttl = ARGV[#KEYS + i] or '-1'
  if ttl == '-1' then
    pairs_to_set[#pairs_to_set + 1] = KEYS[i]
    pairs_to_set[#pairs_to_set + 1] = ARGV[i]
  else
    redis.call('SET', KEYS[i], ARGV[i], 'PX', ttl)
  end
end
if #pairs_to_set > 0 then
  redis.call('MSET', unpack(pairs_to_set))
end
return there
