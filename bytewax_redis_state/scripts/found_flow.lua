-- Give a flow that Redis does not know its incarnation and an empty manifest.
-- KEYS[1] generation  KEYS[2] manifest
-- ARGV[1] incarnation  ARGV[2] shards  ARGV[3] format
-- Returns the incarnation that the manifest holds afterwards.
-- Invariant: a flow is founded once. A generation counter without a manifest is never overwritten.
local known = redis.call('HGET', KEYS[2], 'incarnation')
if known then
  return known
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.error_reply('LOST generation without manifest')
end
redis.call('SET', KEYS[1], '0')
redis.call('HSET', KEYS[2], 'incarnation', ARGV[1], 'generation', '0', 'partitions', '0',
  'resume_epoch', '1', 'processes', '[]', 'shards', ARGV[2], 'format', ARGV[3],
  'steps', '{}', 'parts', '{}', 'versions', '{}', 'retention', '{}', 'downtime', '0',
  'allowance', '0', 'renewing', '', 'time', '0')
return ARGV[1]
