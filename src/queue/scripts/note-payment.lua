-- Notes why a payment that only one gateway may get goes back to the queue, if the run still owns the job.
-- KEYS job, lock, unresolved; ARGV token, job id, reason code, reason, now in ms, pauses as JSON array of ms,
-- least pause in ms, '1' to count a doubt.
-- Returns the pause in ms, or -1 when the lock is lost.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return -1 end
local now = ARGV[5]
local had = redis.call('HINCRBY', KEYS[1], 'pauses', 1)
local pauses = cjson.decode(ARGV[6])
local pause = math.max(pauses[math.min(had, #pauses)], tonumber(ARGV[7]))
if redis.call('HGET', KEYS[1], 'reasonCode') ~= ARGV[3] then redis.call('HSET', KEYS[1], 'since', now) end
redis.call('HSET', KEYS[1], 'reasonCode', ARGV[3], 'reason', ARGV[4], 'pause', pause)
if ARGV[8] == '1' then
  redis.call('HINCRBY', KEYS[1], 'doubts', 1)
  redis.call('HSETNX', KEYS[1], 'doubtedSince', now)
end
redis.call('ZADD', KEYS[3], 'NX', now, ARGV[2])
return pause
