-- Notes why a payment waits that only one gateway may get, and lists it as unresolved at that gateway, if the run still owns
-- the job. When the payment goes back to the queue, decides its pause, too.
-- KEYS job, lock, unresolved, unresolved-fallback; ARGV token, job id, reason code, reason, now in ms, pauses as JSON array
-- of ms ('': it stays in its worker), least pause in ms, '1' to count a doubt, '1' if this run's attempts may have been paid.
-- Returns the pause in ms, or -1 when the lock is lost.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return -1 end
local now = ARGV[5]
local reason = redis.call('HGET', KEYS[1], 'reasonCode')
redis.call('HSET', KEYS[1], 'reasonCode', ARGV[3], 'reason', ARGV[4])
if reason ~= ARGV[3] then redis.call('HSET', KEYS[1], 'since', now) end

local isBound = string.find(redis.call('HGET', KEYS[1], 'progress') or '', '"fallback"', 1, true)
local list, other = KEYS[isBound and 4 or 3], KEYS[isBound and 3 or 4]
redis.call('ZADD', list, 'NX', redis.call('ZSCORE', other, ARGV[2]) or now, ARGV[2])
redis.call('ZREM', other, ARGV[2])
if ARGV[6] == '' then return 0 end

local had = redis.call('HINCRBY', KEYS[1], 'pauses', 1)
local pauses = cjson.decode(ARGV[6])
local pause = math.max(pauses[math.min(had, #pauses)], tonumber(ARGV[7]))
redis.call('HSET', KEYS[1], 'pause', pause)

-- For an operator who releases it: no attempt was made after `attemptedAt`, if the run that wrote `noted` was the last one. A
-- run that ended without this note may have sent as late as now.
local runs = tonumber(redis.call('HGET', KEYS[1], 'ats') or '1')
local noted = tonumber(redis.call('HGET', KEYS[1], 'noted') or '0')
if ARGV[9] == '1' or noted < runs - 1 or redis.call('HEXISTS', KEYS[1], 'attemptedAt') == 0 then
  redis.call('HSET', KEYS[1], 'attemptedAt', now)
end
redis.call('HSET', KEYS[1], 'noted', runs)
if ARGV[8] == '1' then
  redis.call('HINCRBY', KEYS[1], 'doubts', 1)
  redis.call('HSETNX', KEYS[1], 'doubtedSince', now)
end
return pause
