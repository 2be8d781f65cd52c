-- KEYS start of every minute's key; ARGV how many minutes.
-- Returns the present minute since 1970 by Redis' clock, and what was accepted in each minute up to it, the oldest first.
local now = math.floor(redis.call('TIME')[1] / 60)
local accepted = {}
for minute = now - tonumber(ARGV[1]) + 1, now do
  local reply = redis.pcall('GET', KEYS[1] .. string.format('%.0f', minute))
  accepted[#accepted + 1] = type(reply) == 'string' and tonumber(reply) or 0
end
return { now, accepted }
