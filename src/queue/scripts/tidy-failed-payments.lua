-- Marks or removes failed jobs whose rows are committed. Leaves a job alone that has changed since it was listed.
-- KEYS failed. ARGV key prefix, then of each: id, ats ('' for none), 'remove' or the data to keep ('' leaves them).
for i = 2, #ARGV, 3 do
  local id, runs, data = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local jobKey = ARGV[1] .. id
  if redis.call('ZSCORE', KEYS[1], id) and (redis.call('HGET', jobKey, 'ats') or '') == runs then
    if data == 'remove' or redis.call('EXISTS', jobKey) == 0 then
      redis.call('ZREM', KEYS[1], id)
      redis.call('DEL', jobKey, jobKey .. ':logs')
    else
      redis.call('HDEL', jobKey, 'buried')
      redis.call('HSET', jobKey, 'ats', runs, 'buried', runs)
      if data ~= '' then redis.call('HSET', jobKey, 'data', data) end
    end
  end
end
return 1
