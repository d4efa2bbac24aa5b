-- ARGV: greatest number of attempts, JSON of the error for builds given up, milliseconds until the next announcement,
--       greatest number of builds to look at, key of the queue's list
-- gives {retaken ids, ended ids, ids to announce, number of queued builds}
local limit, batch = tonumber(ARGV[1]), ARGV[4]
local now = now_ms()
local retaken, ended = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', RUNNING, '-inf', integer(now), 'LIMIT', '0', batch)) do
  if field(id, 'state') == 'running' then
    settle_expired(id, limit, ARGV[2], now)
    local list = field(id, 'state') == 'queued' and retaken or ended
    list[#list + 1] = id
  else
    -- its record was evicted or removed by hand: one such id must not keep every other build from being swept
    redis.call('ZREM', RUNNING, id)
  end
end
local queued = redis.call('ZCARD', QUEUED)
local announce = {}
-- as many messages as queued builds: nothing is lost, and a long backlog must not be announced over and over
if redis.call('LLEN', ARGV[5]) < queued then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUED, '-inf', integer(now), 'LIMIT', '0', batch)) do
    if field(id, 'state') == 'queued' then
      announce[#announce + 1] = id
      redis.call('ZADD', QUEUED, integer(now + tonumber(ARGV[3])), id)
    else
      redis.call('ZREM', QUEUED, id)
    end
  end
end
return {retaken, ended, announce, queued}
