-- ARGV: id, fence, JSON of the executor's result
-- gives a word of lifecycle.Written
if not is_held(ARGV[1], ARGV[2]) then return 'lost' end
redis.call('HSET', BUILD .. ARGV[1], 'image', ARGV[3])
return 'done'
