-- ARGV: id, states in which it ends at once
-- gives the state after, or nothing when there is no such build
local id = ARGV[1]
local state = field(id, 'state')
if not state then return false end
if state == 'running' then
  redis.call('HSET', BUILD .. id, 'cancel', '1')
elseif among(ARGV[2], state) then
  redis.call('HSET', BUILD .. id, 'cancel', '1')
  to_final(id, 'cancelled', 'cancelled', now_ms())
end
return field(id, 'state')
