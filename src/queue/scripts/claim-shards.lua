-- Writes the number of shards if it is not written yet. A queue with payments but without a number is the one of a version
-- before shards: it counts as one shard.
-- KEYS the number, then the lists whose payments would be lost from sight with another number. ARGV the number of this process.
-- Returns what is written.
local written = redis.call('GET', KEYS[1])
if written then return written end
-- One shard needs no writing: a Redis that is out of memory must not keep its workers from making room.
if ARGV[1] == '1' then
  redis.pcall('SET', KEYS[1], '1')
  return '1'
end
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then return '1' end
end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
