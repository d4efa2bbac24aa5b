-- ARGV: random part of the id, project, repository, commit, config digest, request JSON, tags JSON, force (1 or 0),
--       milliseconds until an unclaimed build is announced again, key of the unique combination,
--       final states other than success
-- gives {id, 1 when a build was made}
local random, project, repository, commit = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local wanted_tags, force, unique, fruitless_states = ARGV[7], ARGV[8] == '1', ARGV[10], ARGV[11]
local now = now_ms()
local of_commit = 'pw:commit:' .. project .. ':' .. commit

local function merged(present, fresh)
  local result = {}
  for _, have in ipairs(present) do
    local replaced = false
    for _, want in ipairs(fresh) do
      if have.tag == want.tag and have.ref == want.ref then replaced = true end
    end
    if not replaced then result[#result + 1] = have end
  end
  for _, want in ipairs(fresh) do result[#result + 1] = want end
  return result
end

-- Crockford's base 32 in ten digits, so that ids sort by time as text
local function time_digits(number)
  local alphabet, digits = '0123456789ABCDEFGHJKMNPQRSTVWXYZ', ''
  for _ = 1, 10 do
    local digit = number % 32
    digits = string.sub(alphabet, digit + 1, digit + 1) .. digits
    number = (number - digit) / 32
  end
  return digits
end

-- one above the numbers of this commit's builds that have an image, or may still get one
local function next_rebuild()
  local highest = -1
  for _, id in ipairs(redis.call('ZRANGE', of_commit, 0, -1)) do
    local record = redis.call('HMGET', BUILD .. id, 'repository', 'state', 'image', 'rebuild')
    local fruitless = among(fruitless_states, record[2]) and record[3] == ''
    if record[1] == repository and not fruitless then highest = math.max(highest, tonumber(record[4])) end
  end
  return highest + 1
end

-- a command repeated after a lost answer finds what its first run made
for _, id in ipairs(redis.call('ZRANGE', of_commit, 0, -1)) do
  if string.sub(id, 11) == random then return {id, 1} end
end

local existing = redis.call('GET', unique)
local image, rebuild, tags = '', nil, wanted_tags
if existing and not force then
  local present = cjson.decode(field(existing, 'tags'))
  local fresh = lacking(present, cjson.decode(wanted_tags))
  -- a build that ended without success stays as it is; its rebuild brings tag requests of its own
  if #fresh == 0 or among(fruitless_states, field(existing, 'state')) then return {existing, 0} end
  if field(existing, 'state') ~= 'succeeded' then
    redis.call('HSET', BUILD .. existing, 'tags', cjson.encode(merged(present, fresh)))
    return {existing, 0}
  end
  -- a finished record does not change: a further one carries the same image to the further tags
  image, rebuild, tags = field(existing, 'image'), field(existing, 'rebuild'), cjson.encode(fresh)
end

local id = time_digits(now) .. random
redis.call('HSET', BUILD .. id, 'v', '1', 'id', id, 'project', project, 'repository', repository, 'commit', commit,
  'config_digest', ARGV[5], 'state', 'queued', 'reason', '', 'attempt', '0', 'fence', '0', 'owner', '',
  'lease_until', '0', 'cancel', '0', 'not_before', '0', 'request', ARGV[6], 'tags', tags,
  'rebuild', rebuild or integer(next_rebuild()), 'image', image, 'results', '[]', 'error', '',
  'created', integer(now), 'queued', integer(now), 'started', '0', 'finished', '0')
redis.call('SET', unique, id)
redis.call('ZADD', of_commit, 0, id)
redis.call('ZADD', 'pw:builds', 0, id)
redis.call('ZADD', 'pw:builds:' .. project, 0, id)
redis.call('ZADD', 'pw:commits:' .. project, 0, commit)
redis.call('ZADD', QUEUED, integer(now + tonumber(ARGV[9])), id)
return {id, 1}
