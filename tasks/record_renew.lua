-- ARGV: id, fence, lease in milliseconds
-- gives {1 when still held, 1 when to be cancelled}; a lease that is over is not revived, even if nobody took it yet
local id, fence, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = now_ms()
if not is_held(id, fence) or tonumber(field(id, 'lease_until')) <= now then return {0, 0} end
redis.call('HSET', BUILD .. id, 'lease_until', integer(now + lease))
redis.call('ZADD', RUNNING, integer(now + lease), id)
return {1, tonumber(field(id, 'cancel'))}
