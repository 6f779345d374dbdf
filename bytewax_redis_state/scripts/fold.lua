-- Apply a chunk of one partition's deltas to the keyed state of one cell.
-- KEYS[1] applied  KEYS[2..] state keys: first those to set, then those to delete; none twice
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] partition  ARGV[4] from  ARGV[5] to
-- ARGV[6] '1' in the last chunk of the cell  ARGV[7] number to set  ARGV[8..] their values
-- Returns {'ok'}, {'skip', applied}, {'gap', applied}, {'fenced', generation}, {'foreign', incarnation} or {'missing'}.
-- Invariant: keys, applied epoch and live count change together; an epoch is applied from one before it.
local lane, mark = 'p' .. ARGV[3], 'mark' .. ARGV[3]
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', lane)
if not have[1] then
  return {'missing'}
elseif have[1] ~= ARGV[1] then
  return {'foreign', have[1]}
elseif have[2] ~= ARGV[2] then
  return {'fenced', have[2]}
end
local applied = math.max(tonumber(have[3]), tonumber(have[4] or '0'))
local from, to, sets = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7])
if applied >= to then
  return {'skip', tostring(applied)}
elseif applied < from then
  return {'gap', tostring(applied)}
end
local grown = 0
if sets > 0 then
  local pairs_to_set, keys_to_set = {}, {}
  for i = 1, sets do
    keys_to_set[i] = KEYS[1 + i]
    pairs_to_set[2 * i - 1] = KEYS[1 + i]
    pairs_to_set[2 * i] = ARGV[7 + i]
  end
  grown = sets - redis.call('EXISTS', unpack(keys_to_set))
  redis.call('MSET', unpack(pairs_to_set))
end
if #KEYS > 1 + sets then
  grown = grown - redis.call('UNLINK', unpack(KEYS, 2 + sets))
end
if grown ~= 0 then
  redis.call('HINCRBY', KEYS[1], 'count', grown)
end
if ARGV[6] == '1' then
  redis.call('HSET', KEYS[1], lane, ARGV[5])
  redis.call('HDEL', KEYS[1], mark)
else
  redis.call('HSET', KEYS[1], mark, ARGV[5])
end
return {'ok'}
