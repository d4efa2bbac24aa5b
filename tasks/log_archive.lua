-- KEYS: stream, archive, state, set of logs not archived; ARGV: build id, compressed log
redis.call('SET', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[1], KEYS[3])
redis.call('SREM', KEYS[4], ARGV[1])
return 1
