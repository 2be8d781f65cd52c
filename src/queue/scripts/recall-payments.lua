-- Shortens delays that exceed the payment's pause: the clock of the worker that requeued it was wrong. (BullMQ computes delays
-- with the clocks of its workers.) Also removes payments that have left the queue from the unresolved ones.
-- KEYS delayed, marker, unresolved; ARGV now in ms, the usual longest pause in ms, slack in ms, key prefix.
-- A score is the time in ms times 4096 (BullMQ's getDelayedScore). Returns how many delays were shortened.
local now, usual, slack = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local late = '(' .. string.format('%.0f', (now + usual + slack) * 4096)
local found = redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', late, 'WITHSCORES', 'LIMIT', 0, 1000)
local count = 0
for i = 1, #found, 2 do
  local pause = tonumber(redis.call('HGET', ARGV[4] .. found[i], 'pause') or usual)
  if tonumber(found[i + 1]) / 4096 > now + pause + slack then
    redis.call('ZADD', KEYS[1], string.format('%.0f', (now + pause) * 4096), found[i])
    count = count + 1
  end
end
if count > 0 then redis.call('ZADD', KEYS[2], 0, '0') end
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, 99)) do
  if redis.call('EXISTS', ARGV[4] .. id) == 0 then redis.call('ZREM', KEYS[3], id) end
end
return count
