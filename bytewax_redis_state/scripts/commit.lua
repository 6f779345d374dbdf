-- Carry out a transaction if every value that it read is unchanged.
-- KEYS[1..] keys, none twice
-- ARGV[1..] three per key: SHA-1 of the bytes read, '-' if there was no value, '' if not read;
--   'keep', 'delete', 'put', or a TTL in ms to put with; the value to put
-- Returns 0 if done, else the number of the first key that has changed.
-- Invariant: all changes are carried out, or none.
for i = 1, #KEYS do
  local seen = ARGV[3 * i - 2]
  if seen ~= '' then
    local have = redis.call('GET', KEYS[i])
    if (have and redis.sha1hex(have) or '-') ~= seen then
      return i
    end
  end
end
for i = 1, #KEYS do
  local change = ARGV[3 * i - 1]
  if change == 'delete' then
    redis.call('UNLINK', KEYS[i])
  elseif change == 'put' then
    redis.call('SET', KEYS[i], ARGV[3 * i])
  elseif change ~= 'keep' then
    redis.call('SET', KEYS[i], ARGV[3 * i], 'PX', change)
  end
end
return 0
