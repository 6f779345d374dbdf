-- Apply a chunk of one partition's deltas to the keyed state of one cell.
-- KEYS[1] applied  KEYS[2..] state keys: first those to set, then those to delete; none twice
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] partition  ARGV[4] from  ARGV[5] to
-- ARGV[6] number of the chunk, from 1, negative for the last chunk of the cell
-- ARGV[7] ms from a deadline to the PXAT of its key, or '' if the step has no retention
-- ARGV[8] number of keys to set  ARGV[9..] their envelopes
-- Returns {'ok'}, {'skip', applied}, {'gap', applied}, {'torn', fold under way}, {'fenced', generation},
-- {'foreign', incarnation} or {'missing'}.
-- Invariant: keys, applied epoch, live count and the counts of deadlines ('d<deadline>') change
-- together. A fold applies epochs without a gap. The chunks of a fold are taken in order. A chunk of
-- an older fold, late from the buffer of a dead connection, is refused once a newer fold is under way.
-- A cell that has held a deadline has 'slack', the least of all ARGV[7] so far. From then on the old
-- deadline of every key is read and subtracted from the counts.
local KEYS, ARGV, redis = KEYS, ARGV, redis  -- locals are faster than globals, and fold is hot
local partition, mark, chunk = 'p' .. ARGV[3], 'mark' .. ARGV[3], 'chunk' .. ARGV[3]
local have = redis.call('HMGET', KEYS[1], 'incarnation', 'generation', 'epoch', partition, 'slack', mark, chunk,
  'count')
if not have[1] then
  return {'missing'}
elseif have[1] ~= ARGV[1] then
  return {'foreign', have[1]}
elseif have[2] ~= ARGV[2] then
  return {'fenced', have[2]}
end
local key = KEYS[1]
local applied = math.max(whole(key, 'epoch', have[3]), whole(key, partition, have[4] or '0'))
local from, to, sets = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[8])
local number = math.abs(ARGV[6])
local under_way, done = whole(key, mark, have[6] or '0'), whole(key, chunk, have[7] or '0')
local count = whole(key, 'count', have[8])
if applied >= to then
  return {'skip', tostring(applied)}
elseif applied < from then
  return {'gap', tostring(applied)}
elseif under_way > to or (number > 1 and (under_way < to or done < number - 1)) then
  return {'torn', tostring(under_way)}
end

local byte, sub, call = string.byte, string.sub, redis.call

-- The position of an envelope's deadline, by the envelope's second byte: 0 no deadline, 1 after the
-- check sum, 2 after the check sum and a key ID.
local positions = {}

local function position_of(kind)
  local position = 0
  if kind and kind % 64 >= 32 then
    position = kind % 32 < 16 and 1 or 2
  end
  if kind then
    positions[kind] = position
  end
  return position
end

local function after_key_id(head)
  local at = 8 + byte(head, 7)
  return sub(head, at, at + 5)
end

local function number_of(field)
  local a, b, c, d, e, f = byte(field, 1, 6)
  return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end

local grown, dated = 0, {}
if ARGV[7] ~= '' or have[5] then
  local offset = tonumber(ARGV[7])
  -- There are few deadlines and many keys: each deadline is converted once.
  local any, size, expiries = false, 0, {}
  for i = 9, 8 + sets do
    size = size + #ARGV[i]
  end
  -- Old values are mostly about as large as new ones. Small ones come with SET … GET at no cost; of
  -- large ones only the head is read.
  local small = size < 131072
  local function count_out(old)
    if old and old ~= '' then
      local kind = byte(old, 2)
      local position = positions[kind] or position_of(kind)
      if position > 0 then
        local field = position == 1 and sub(old, 7, 12) or after_key_id(old)
        dated[field] = (dated[field] or 0) - 1
      end
      grown = grown - 1
    end
  end
  local last, expiry  -- neighbours mostly have the same deadline
  for i = 2, 1 + sets do
    local value = ARGV[7 + i]
    local kind = byte(value, 2)
    local position = positions[kind] or position_of(kind)
    if position == 0 then
      last, expiry = nil, nil
    else
      local field = position == 1 and sub(value, 7, 12) or after_key_id(value)
      dated[field] = (dated[field] or 0) + 1
      if field ~= last then
        last, expiry = field, offset and expiries[field]
        if offset and not expiry then
          expiry = string.format('%.0f', number_of(field) + offset)
          expiries[field] = expiry
          any = true
        end
      end
    end
    if small and expiry then
      count_out(call('SET', KEYS[i], value, 'PXAT', expiry, 'GET'))
    elseif small then
      count_out(call('SET', KEYS[i], value, 'GET'))
    else
      count_out(call('GETRANGE', KEYS[i], 0, 267))
      if expiry then
        call('SET', KEYS[i], value, 'PXAT', expiry)
      else
        call('SET', KEYS[i], value)
      end
    end
  end
  grown = grown + sets
  if #KEYS > 1 + sets then
    for i = 2 + sets, #KEYS do
      count_out(redis.call('GETRANGE', KEYS[i], 0, 267))
    end
    redis.call('UNLINK', unpack(KEYS, 2 + sets))
  end
  if any and (not have[5] or offset < tonumber(have[5])) then
    redis.call('HSET', KEYS[1], 'slack', ARGV[7])
  end
else
  if sets > 0 then
    local pairs_to_set, at = {}, 1
    for i = 1, sets do
      pairs_to_set[at], pairs_to_set[at + 1] = KEYS[1 + i], ARGV[8 + i]
      at = at + 2
    end
    grown = sets - redis.call('EXISTS', unpack(KEYS, 2, 1 + sets))
    redis.call('MSET', unpack(pairs_to_set))
  end
  if #KEYS > 1 + sets then
    grown = grown - redis.call('UNLINK', unpack(KEYS, 2 + sets))
  end
end
if grown ~= 0 then
  redis.call('HINCRBY', KEYS[1], 'count', grown)
end
for field, change in pairs(dated) do
  local name = 'd' .. string.format('%.0f', number_of(field))
  if change ~= 0 and redis.call('HINCRBY', KEYS[1], name, change) == 0 then
    redis.call('HDEL', KEYS[1], name)
  end
end
if tonumber(ARGV[6]) < 0 then
  redis.call('HSET', KEYS[1], partition, ARGV[5])
  redis.call('HDEL', KEYS[1], mark, chunk)
elseif under_way < to or done < number then
  redis.call('HSET', KEYS[1], mark, ARGV[5], chunk, number)
end
return {'ok'}
