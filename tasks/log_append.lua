-- KEYS: stream, archive, state (hash: bytes, last), set of logs not archived
-- ARGV: build id, bytes the log may have, chunk, last words, name of this chunk (or empty)
-- gives 1 when written, 0 when the log is full or over
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
-- a command repeated after a lost answer finds its chunk in the log
if ARGV[5] ~= '' and redis.call('HGET', KEYS[3], 'last') == ARGV[5] then return 1 end
local limit = tonumber(ARGV[2])
local before = tonumber(redis.call('HGET', KEYS[3], 'bytes') or '0')
if before > limit then return 0 end
redis.call('SADD', KEYS[4], ARGV[1])
redis.call('HSET', KEYS[3], 'last', ARGV[5])
if redis.call('HINCRBY', KEYS[3], 'bytes', #ARGV[3]) > limit then
  redis.call('XADD', KEYS[1], '*', 'e', ARGV[4])
  return 0
end
redis.call('XADD', KEYS[1], '*', 'e', ARGV[3])
return 1
