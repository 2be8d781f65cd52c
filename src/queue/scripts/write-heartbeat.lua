-- Writes the heartbeat of a process, and removes from the list those of processes that have ended without a word: their keys
-- have expired. Redis' clock orders the list, so they come first.
-- KEYS heartbeats, heartbeat; ARGV id, heartbeat as JSON, its time to live in ms, start of every heartbeat's key.
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), ARGV[1])
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, 9)) do
  if redis.call('EXISTS', ARGV[4] .. id) == 0 then redis.call('ZREM', KEYS[1], id) end
end
return 1
