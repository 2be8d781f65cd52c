-- Frees a payment from the one gateway that may get it, as an operator has decided, and makes it due. What earlier runs have
-- left behind is cleared as bullmq-layout.ts (runsOf) computes it: every run counts as one that ended clean. `ats` stays, so the
-- next run is not the first one. Of a failed job the same is cleared, because a later post of its id inherits it.
-- KEYS job, lock, active, failed, delayed, marker, unresolved, unresolved-fallback. ARGV job id, its runs when the caller read it
-- ('': none; with the same number no run has started since), the gateway, the operator, its delay in ms.
-- Returns 'done', 'changed' when the job is not as it was read, or 'in_flight', also when its lock has expired.
if redis.call('EXISTS', KEYS[1]) == 0 or (redis.call('HGET', KEYS[1], 'ats') or '') ~= ARGV[2] then return 'changed' end
if redis.call('EXISTS', KEYS[2]) == 1 or redis.call('LPOS', KEYS[3], ARGV[1]) then return 'in_flight' end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- HSET comes first: while Redis is out of memory it rejects the whole script.
redis.call('HSET', KEYS[1], 'released', cjson.encode({ gateway = ARGV[3], by = ARGV[4], at = now }))
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'atm', ARGV[2]) end
redis.call('HDEL', KEYS[1], 'progress', 'doubts', 'doubtedSince', 'noted', 'attemptedAt', 'pauses', 'pause')
redis.call('ZREM', KEYS[7], ARGV[1])
redis.call('ZREM', KEYS[8], ARGV[1])
if redis.call('ZSCORE', KEYS[4], ARGV[1]) then return 'done' end
-- They say why it waited for the gateway.
redis.call('HDEL', KEYS[1], 'reasonCode', 'reason', 'since', 'failedReason')
if redis.call('ZSCORE', KEYS[5], ARGV[1]) then
  -- A score is the time in ms times 4096 (BullMQ's getDelayedScore).
  redis.call('ZADD', KEYS[5], string.format('%.0f', (now + tonumber(ARGV[5])) * 4096), ARGV[1])
  redis.call('ZADD', KEYS[6], 0, '0')
end
return 'done'
