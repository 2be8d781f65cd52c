-- KEYS job, lock. ARGV token, the data to keep ('' leaves them). Does nothing for a run that has lost its job.
-- HDEL comes first: a Redis that is out of memory refuses a script whose first write may need some.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'buried')
redis.call('HSET', KEYS[1], 'buried', redis.call('HGET', KEYS[1], 'ats') or '')
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'data', ARGV[2]) end
return 1
