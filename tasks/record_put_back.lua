-- ARGV: id, fence, reason, milliseconds to wait, error JSON, 1 when this run counts as an attempt
-- gives a word of lifecycle.Written; a build that somebody asked to cancel is not put back but cancelled
local id, fence, reason = ARGV[1], ARGV[2], ARGV[3]
local now = now_ms()
if field(id, 'fence') == fence and field(id, 'state') == 'queued' and field(id, 'reason') == reason then
  return 'done'  -- a command repeated after a lost answer
end
if not is_held(id, fence) then return 'lost' end
if field(id, 'cancel') == '1' then
  to_final(id, 'cancelled', 'cancelled', now)
  return 'done'
end
if ARGV[6] == '0' then redis.call('HINCRBY', BUILD .. id, 'attempt', -1) end
redis.call('HSET', BUILD .. id, 'error', ARGV[5])
to_queue(id, reason, now + tonumber(ARGV[4]), now)
return 'done'
