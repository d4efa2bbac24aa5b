-- KEYS: stream, archive, size, set of logs not archived; ARGV: build id, bytes the log may have, chunk, last words
-- gives 1 when written, 0 when the log is full or over
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local limit = tonumber(ARGV[2])
local before = tonumber(redis.call('GET', KEYS[3]) or '0')
if before > limit then return 0 end
redis.call('SADD', KEYS[4], ARGV[1])
if redis.call('INCRBY', KEYS[3], #ARGV[3]) > limit then
  redis.call('XADD', KEYS[1], '*', 'e', ARGV[4])
  return 0
end
redis.call('XADD', KEYS[1], '*', 'e', ARGV[3])
return 1
