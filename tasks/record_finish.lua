-- ARGV: id, fence, final state, reason, results JSON, error JSON, JSON of the tag requests that were met (or empty:
--       not to be checked), states that may become this one
-- gives a word of lifecycle.Written
local id, fence, state, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if field(id, 'fence') == fence and field(id, 'state') == state and field(id, 'reason') == reason then
  return 'done'  -- a command repeated after a lost answer
end
if not is_held(id, fence) or not among(ARGV[8], 'running') then return 'lost' end
if ARGV[7] ~= '' and #lacking(cjson.decode(ARGV[7]), cjson.decode(field(id, 'tags'))) > 0 then return 'tags-added' end
redis.call('HSET', BUILD .. id, 'results', ARGV[5], 'error', ARGV[6])
to_final(id, state, reason, now_ms())
return 'done'
