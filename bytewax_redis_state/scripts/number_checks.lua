-- The numbers that a record holds, each checked before a script calculates with it. This text goes
-- before every script that uses it. A field that is no number stops the script: the error begins with
-- DAMAGED, and names key, field and value.
local function damaged(key, field, value)
  local shown = value and "'" .. string.gsub(string.sub(value, 1, 80), '[^\32-\126]', '?') .. "'" or 'missing'
  error("DAMAGED the field '" .. field .. "' of '" .. key .. "' is " .. shown .. ', not a number that this package writes', 0)
end

-- A whole number that a Lua number holds exactly.
local function whole(key, field, value)
  if not value or #value > 15 or not string.find(value, '^%d+$') then
    damaged(key, field, value)
  end
  return tonumber(value)
end

-- The number of a generation, which stands before the ID of its start.
local function number_of(key, field, value)
  local number = value and (string.match(value, '^(%d+)%-') or string.match(value, '^%d+$'))
  if not number or #number > 15 then
    damaged(key, field, value)
  end
  return tonumber(number)
end

