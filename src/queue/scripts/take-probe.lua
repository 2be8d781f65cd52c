-- Takes the right to send a probe to a gateway, for a time. Returns whether this worker has it now, for how many ms another
-- one has it otherwise, how many new payments in a row were not taken as probes, and how many ms ago the last new one was
-- sent, -1 for never.
-- KEYS right, new probes; ARGV worker, time to live in ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local new = redis.call('HMGET', KEYS[2], 'notTaken', 'sentAt')
local ago = new[2] and math.max(0, now - tonumber(new[2])) or -1
local left = redis.call('PTTL', KEYS[1])
if left > 0 then return { 0, left, tonumber(new[1] or '0'), ago } end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return { 1, 0, tonumber(new[1] or '0'), ago }
