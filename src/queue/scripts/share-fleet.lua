-- Notes what this worker tells the others, and returns what they told: for each of them its id, its text and how long ago that
-- was, in ms by Redis' clock. A worker that has not spoken for the time to live has ended, and is removed; so is one that spoke
-- in the future, because the clock of another master was ahead: if it lives, it speaks again soon. A full memory refuses the
-- note and not the reading: then the first value is 0.
-- KEYS fleet; ARGV id, text, time to live in ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local written = redis.pcall('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
local out = { type(written) == 'table' and 0 or 1 }
redis.pcall('PEXPIRE', KEYS[1], 60000)
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at, text = string.match(all[i + 1], '^(%d+) (.*)$')
  local ago = now - tonumber(at or '0')
  if ago > tonumber(ARGV[3]) or ago < -1000 then
    redis.pcall('HDEL', KEYS[1], all[i])
  elseif all[i] ~= ARGV[1] then
    out[#out + 1] = all[i]
    out[#out + 1] = text
    out[#out + 1] = math.max(0, ago)
  end
end
return out
