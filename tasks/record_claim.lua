-- ARGV: id, owner (unique to this claim), lease in milliseconds, states it may come from, greatest number of attempts,
--       JSON of the error for builds given up
-- gives the record, or nothing when it is not to be run now
local id, owner, lease, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local now = now_ms()
if field(id, 'state') == 'running' then
  -- a command repeated after a lost answer finds its own claim
  if field(id, 'owner') == owner then return redis.call('HGETALL', BUILD .. id) end
  if tonumber(field(id, 'lease_until')) > now then return false end
  settle_expired(id, limit, ARGV[6], now)
end
if not among(ARGV[4], field(id, 'state')) or tonumber(field(id, 'not_before')) > now then return false end
redis.call('HINCRBY', BUILD .. id, 'attempt', 1)
redis.call('HINCRBY', BUILD .. id, 'fence', 1)
redis.call('HSET', BUILD .. id, 'state', 'running', 'reason', '', 'owner', owner, 'not_before', '0', 'error', '',
  'lease_until', integer(now + lease))
if field(id, 'started') == '0' then redis.call('HSET', BUILD .. id, 'started', integer(now)) end
redis.call('ZREM', QUEUED, id)
redis.call('ZADD', RUNNING, integer(now + lease), id)
return redis.call('HGETALL', BUILD .. id)
