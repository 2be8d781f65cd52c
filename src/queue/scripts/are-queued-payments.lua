-- KEYS failed. ARGV key prefix, then ids. Of each: 1 when its job is there and has not failed.
local queued = {}
for i = 2, #ARGV do
  local isQueued = redis.call('EXISTS', ARGV[1] .. ARGV[i]) == 1 and not redis.call('ZSCORE', KEYS[1], ARGV[i])
  queued[#queued + 1] = isQueued and 1 or 0
end
return queued
