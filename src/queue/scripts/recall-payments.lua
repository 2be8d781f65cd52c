-- Shortens delays that exceed the payment's pause: the clock of the worker that requeued it was wrong. (BullMQ computes delays
-- with the clocks of its workers.) Also removes payments that have left the queue from the unresolved ones, and moves those that
-- are bound to the fallback to its own list: an earlier version has one list only.
-- KEYS delayed, marker, unresolved, unresolved-fallback; ARGV now in ms, the usual longest pause in ms, slack in ms, key prefix.
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

-- Another page of each list every time, because the oldest may stay unresolved for long.
for place = 3, 4 do
  local list, other = KEYS[place], KEYS[7 - place]
  local pages = math.ceil(redis.call('ZCARD', list) / 100)
  local first = pages > 0 and math.floor(now / 2000) % pages * 100 or 0
  for _, id in ipairs(redis.call('ZRANGE', list, first, first + 99)) do
    local job = ARGV[4] .. id
    local isBound = string.find(redis.call('HGET', job, 'progress') or '', '"fallback"', 1, true)
    if redis.call('EXISTS', job) == 0 then
      redis.call('ZREM', list, id)
    elseif (isBound and 4 or 3) ~= place then
      redis.call('ZADD', other, 'NX', redis.call('ZSCORE', list, id), id)
      redis.call('ZREM', list, id)
    end
  end
end
return count
