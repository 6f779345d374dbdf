-- Take a lease that is free, belongs to the caller, or belongs to an owner that may be replaced.
-- KEYS[1] lease
-- ARGV[1] owner  ARGV[2] value (JSON with the owner as "id")  ARGV[3] milliseconds
-- ARGV[4] owner or value that may be replaced, '' for none, '*' for any, '?' for what is no text
-- Returns nil if the lease was taken, else the value of the holder; '' for what is no text.
-- Invariant: a lease has one owner at a time, and none lives on without being renewed: one without
-- an expiry, which no owner writes, gets one.
local held = redis.pcall('GET', KEYS[1])
if held then
  local is_text = type(held) == 'string'
  local is_json, lease = pcall(cjson.decode, is_text and held or '')
  local holder = is_json and type(lease) == 'table' and type(lease['id']) == 'string' and lease['id'] or '?'
  local is_named = ARGV[4] == '*' or holder == ARGV[4] or (held ~= '' and held == ARGV[4])
  if holder ~= ARGV[1] and not is_named then
    if redis.call('PTTL', KEYS[1]) == -1 then
      redis.call('PEXPIRE', KEYS[1], ARGV[3])
    end
    return is_text and held or ''
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return nil
