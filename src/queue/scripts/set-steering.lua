-- Writes what an operator has decided, with the time of Redis' clock.
-- KEYS steering; ARGV field, decision as a JSON object. Returns what was written.
local decision = cjson.decode(ARGV[2])
local time = redis.call('TIME')
decision.at = time[1] * 1000 + math.floor(time[2] / 1000)
local text = cjson.encode(decision)
redis.call('HSET', KEYS[1], ARGV[1], text)
return text
