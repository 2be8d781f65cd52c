-- Sets or removes the binding, if the run still owns the job. BullMQ's own updates of a job do not compare the lock.
-- KEYS job, lock; ARGV token, binding ('' removes it). Returns 0 when the lock is lost.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], 'progress') else redis.call('HSET', KEYS[1], 'progress', ARGV[2]) end
return 1
