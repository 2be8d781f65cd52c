-- Finds the jobs of payments by their ids. It writes nothing, so it runs while Redis is out of memory, and looks into no
-- list, so that its time does not grow with the queue.
-- KEYS failed. ARGV key prefix, then ids. Returns for each id nil without a job; else 1 if it has failed, the token of its
-- lock or nil, and its fields.
local found = {}
for i = 2, #ARGV do
  local key = ARGV[1] .. ARGV[i]
  found[i - 1] = false
  if redis.call('EXISTS', key) == 1 then
    found[i - 1] = {
      redis.call('ZSCORE', KEYS[1], ARGV[i]) and 1 or 0,
      redis.call('GET', key .. ':lock'),
      redis.call('HMGET', key, 'data', 'failedReason', 'timestamp', 'finishedOn', 'ats', 'atm', 'progress', 'buried',
        'reasonCode', 'reason', 'since', 'doubts', 'processedOn', 'noted', 'attemptedAt', 'released'),
    }
  end
end
return found
