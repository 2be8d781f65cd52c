-- Marks a job as buried, if the run still owns it. KEYS job, lock. ARGV token, the data to keep ('' leaves them).
-- Returns 0 when the lock is lost. HDEL comes first: while Redis is out of memory it rejects a script whose first write
-- may need memory.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'buried')
redis.call('HSET', KEYS[1], 'buried', redis.call('HGET', KEYS[1], 'ats') or '')
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'data', ARGV[2]) end
return 1
