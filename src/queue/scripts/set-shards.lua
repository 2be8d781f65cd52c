-- Writes the number of shards, or 'closed', at the relay's home or at one shard.
-- KEYS the number; ARGV what to write, then what it may replace ('' is none; without any of these it replaces everything).
-- Returns 1, or 0 when something else is there.
if #ARGV > 1 then
  local written, fits = redis.call('GET', KEYS[1]) or '', false
  for i = 2, #ARGV do fits = fits or written == ARGV[i] end
  if not fits then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
