-- KEYS: hash of a repository's moving tags; ARGV: tag, JSON {ref, sequence, build, digest}
-- gives the JSON that stands afterwards; an earlier push of the same ref never replaces a later one
local present = redis.call('HGET', KEYS[1], ARGV[1])
if present then
  local have, want = cjson.decode(present), cjson.decode(ARGV[2])
  if have.ref == want.ref and have.sequence > want.sequence then return present end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
