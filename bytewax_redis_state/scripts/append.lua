-- Append outbox rows to the journal, and move progress with the last row of an epoch.
-- KEYS[1] journal  KEYS[2] progress
-- ARGV[1] incarnation  ARGV[2] generation  ARGV[3] place before  ARGV[4] place after: the last whole
--   row, and then '+' and the number of pieces of the next row, where some of them are in the journal
-- ARGV[5] epoch of progress afterwards, or '' if it stays  ARGV[6..] epoch, number, cell, delta, …
-- Returns {'ok'}, {'moved', place}, {'fenced', generation}, {'foreign', incarnation} or {'missing'}.
-- Invariant: each piece of a row enters once and in order, by compare-and-set on the place. No key is made
-- here: a missing key means that Redis lost it. Progress counts the entries of the journal, and has
-- the ID of the newest one: a start compares both with the journal, and so finds what was deleted.
local have = redis.call('HMGET', KEYS[2], 'incarnation', 'generation', 'row', 'fenced', 'part', 'entries')
if not have[1] or redis.call('EXISTS', KEYS[1]) == 0 then
  return {'missing'}
elseif have[1] ~= ARGV[1] then
  return {'foreign', have[1]}
elseif have[2] ~= ARGV[2] then  -- Redis gave the number twice; another start has it
  return {'fenced', have[2]}
elseif have[4] then
  return {'fenced', have[4]}
end
local place = have[3]
if have[5] then
  place = place .. '+' .. have[5]
end
if place ~= ARGV[3] then
  return {'moved', place}
end
local entries = whole(KEYS[2], 'entries', have[6])
local last
for i = 6, #ARGV, 4 do
  last = ARGV[i] .. '-' .. ARGV[i + 1]
  redis.call('XADD', KEYS[1], last, 'c', ARGV[i + 2], 'd', ARGV[i + 3])
  entries = entries + 1
end
if last then
  redis.call('HSET', KEYS[2], 'entries', string.format('%.0f', entries), 'last', last)
end
local row, part = string.match(ARGV[4], '^(%d+)%+?(%d*)$')
if part ~= '' then
  redis.call('HSET', KEYS[2], 'part', part)
elseif have[5] then
  redis.call('HDEL', KEYS[2], 'part')
end
if ARGV[5] == '' then
  redis.call('HSET', KEYS[2], 'row', row)
else
  local now = redis.call('TIME')
  local time = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('HSET', KEYS[2], 'row', row, 'epoch', ARGV[5], 'time', time)
end
return {'ok'}
