-- KEYS failed. ARGV key prefix, then ids. Returns for each id 1 when its job exists and has not failed, else 0.
local queued = {}
for i = 2, #ARGV do
  local isQueued = redis.call('EXISTS', ARGV[1] .. ARGV[i]) == 1 and not redis.call('ZSCORE', KEYS[1], ARGV[i])
  queued[#queued + 1] = isQueued and 1 or 0
end
return queued
