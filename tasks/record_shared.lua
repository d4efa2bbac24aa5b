-- what every script on build records begins with
-- names of keys are derived from a record's fields, so Redis Cluster is not supported
local BUILD = 'pw:build:'
local QUEUED = 'pw:queued'    -- id -> when it is to be announced (again)
local RUNNING = 'pw:running'  -- id -> when its lease ends

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function integer(number)
  return string.format('%d', number)
end

local function field(id, name)
  return redis.call('HGET', BUILD .. id, name)
end

-- whether `state` is among `words`, which come from the table of transitions in tasks/lifecycle.py
local function among(words, state)
  return state and string.find(' ' .. words .. ' ', ' ' .. state .. ' ', 1, true) ~= nil
end

local function is_held(id, fence)
  return field(id, 'state') == 'running' and field(id, 'fence') == fence
end

local function to_queue(id, reason, not_before, now)
  redis.call('HSET', BUILD .. id, 'state', 'queued', 'reason', reason, 'owner', '', 'lease_until', '0',
    'not_before', integer(not_before), 'queued', integer(now))
  redis.call('ZREM', RUNNING, id)
  redis.call('ZADD', QUEUED, integer(math.max(not_before, now)), id)
end

local function to_final(id, state, reason, now)
  redis.call('HSET', BUILD .. id, 'state', state, 'reason', reason, 'owner', '', 'lease_until', '0',
    'not_before', '0', 'finished', integer(now))
  redis.call('ZREM', RUNNING, id)
  redis.call('ZREM', QUEUED, id)
end

-- a running build whose lease is over goes back to the queue, or ends where nobody wants it or nobody can finish it
local function settle_expired(id, limit, error_json, now)
  if field(id, 'cancel') == '1' then
    to_final(id, 'cancelled', 'cancelled', now)
  elseif tonumber(field(id, 'attempt')) >= limit then
    redis.call('HSET', BUILD .. id, 'error', error_json)
    to_final(id, 'failed', 'worker-lost', now)
  else
    to_queue(id, 'worker-lost', 0, now)
  end
end

-- the tag requests of `wanted` that `present` lacks; a later push of the same ref counts as lacking
local function lacking(present, wanted)
  local fresh = {}
  for _, want in ipairs(wanted) do
    local covered = false
    for _, have in ipairs(present) do
      if have.tag == want.tag and have.ref == want.ref and have.sequence >= want.sequence then covered = true end
    end
    if not covered then fresh[#fresh + 1] = want end
  end
  return fresh
end
