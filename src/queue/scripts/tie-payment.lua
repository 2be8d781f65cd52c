-- Binds a waiting payment to the gateway that has made it, as an operator says, before the row in the ledger says so: no run
-- that starts in between may send it to the other gateway.
-- KEYS job, lock, active. ARGV job id, its runs when the caller read it, the binding. Returns as release-payment.lua does.
if redis.call('EXISTS', KEYS[1]) == 0 or (redis.call('HGET', KEYS[1], 'ats') or '') ~= ARGV[2] then return 'changed' end
if redis.call('EXISTS', KEYS[2]) == 1 or redis.call('LPOS', KEYS[3], ARGV[1]) then return 'in_flight' end
redis.call('HSET', KEYS[1], 'progress', ARGV[3])
return 'done'
