-- Removes the job of a payment that an operator has rejected. Its dead letter is committed.
-- KEYS job, lock, active, failed, wait, delayed, unresolved, unresolved-fallback. ARGV job id, its runs when the caller read it.
-- Returns as release-payment.lua does.
if redis.call('EXISTS', KEYS[1]) == 0 or (redis.call('HGET', KEYS[1], 'ats') or '') ~= ARGV[2] then return 'changed' end
if redis.call('EXISTS', KEYS[2]) == 1 or redis.call('LPOS', KEYS[3], ARGV[1]) then return 'in_flight' end
if redis.call('ZSCORE', KEYS[4], ARGV[1]) then return 'changed' end
if redis.call('ZREM', KEYS[6], ARGV[1]) + redis.call('LREM', KEYS[5], -1, ARGV[1]) == 0 then return 'changed' end
redis.call('ZREM', KEYS[7], ARGV[1])
redis.call('ZREM', KEYS[8], ARGV[1])
redis.call('DEL', KEYS[1], KEYS[1] .. ':logs')
return 'done'
