-- Tells the other workers what became of a probe.
-- KEYS right, new probes; ARGV worker, pause in ms until the next probe of any worker (0: gives the right back, -1: leaves it
-- as it is; nobody gives a pause back), 1 when a new payment was sent, 1 when a new payment was not taken.
local pause = tonumber(ARGV[2])
local holder = redis.call('GET', KEYS[1])
local paused = ARGV[1] .. ' paused'
if pause == 0 and holder == ARGV[1] then
  redis.call('DEL', KEYS[1])
elseif pause > 0 and (holder == ARGV[1] or holder == paused or redis.call('PTTL', KEYS[1]) < pause) then
  redis.call('SET', KEYS[1], paused, 'PX', pause)
end
if ARGV[3] == '1' then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[2], 'sentAt', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
end
if ARGV[4] == '1' then redis.call('HINCRBY', KEYS[2], 'notTaken', 1) end
if ARGV[3] == '1' or ARGV[4] == '1' then redis.call('PEXPIRE', KEYS[2], 60000) end
return 1
