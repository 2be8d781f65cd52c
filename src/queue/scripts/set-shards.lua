-- Writes the number of shards, or a mark of a command that closes them, at the relay's home or at one shard.
-- KEYS the number. ARGV what to write, then what it may replace ('' is none). A write may replace itself.
-- Returns 1, or 0 when something else is there.
local written = redis.call('GET', KEYS[1]) or ''
if written ~= ARGV[1] and written ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
