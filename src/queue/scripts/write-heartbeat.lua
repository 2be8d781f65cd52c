-- Writes the heartbeat of a process, and removes from the list those of processes that have ended without a word: their keys
-- have expired. Redis' clock orders the list, so they come first. Adds to the minute what the process has accepted since its
-- last heartbeat. GET and SET do what INCRBY and PEXPIRE would do, because the API has the right to them anyway.
-- KEYS heartbeats, heartbeat, start of every minute's key; ARGV id, heartbeat as JSON, its time to live in ms, start of every
-- heartbeat's key, payments accepted.
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), ARGV[1])
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, 9)) do
  if redis.call('EXISTS', ARGV[4] .. id) == 0 then redis.call('ZREM', KEYS[1], id) end
end
local accepted = tonumber(ARGV[5])
if accepted > 0 then
  local minute = KEYS[3] .. string.format('%.0f', math.floor(time[1] / 60))
  local before = tonumber(redis.call('GET', minute) or '0') or 0
  redis.call('SET', minute, string.format('%.0f', before + accepted), 'PX', 7200000)
end
return 1
