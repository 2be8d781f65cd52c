-- For runs that are about to send: tells since when this server has the queue, and which of the runs own their jobs here. Writes
-- something in any case, so that WAIT covers all that was written before.
--
-- The epoch begins when the server changes: another process (`run_id`), or another history of writes (`master_replid`). What was
-- accepted up to its start may have been attempted without a trace here. `latest` is the last time of acceptance that this
-- server knows: the clock of the server before may have been ahead.
-- A server that may not say who it is counts as a new one each time.
-- HDEL comes first: while Redis is out of memory it rejects a script whose first write may need memory.
-- KEYS epoch. ARGV of each run: key of its job's lock, token. Returns the start of the epoch in ms, and for each run 1 or 0.
redis.call('HDEL', KEYS[1], 'confirmed')
local function said(section, field)
  local info = redis.pcall('INFO', section)
  return type(info) == 'string' and string.match(info, field .. ':(%w+)')
end
local run, history = said('server', 'run_id'), said('replication', 'master_replid')
local server = run and history and run .. ':' .. history
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = redis.call('HMGET', KEYS[1], 'server', 'since', 'latest')
local since = epoch[2]
if not epoch[1] then
  -- No worker has taken a payment from this queue yet, or only workers of a version without epochs.
  since = '0'
  redis.call('HSET', KEYS[1], 'server', server or '', 'since', since)
elseif epoch[1] ~= server then
  since = string.format('%.0f', math.max(now, tonumber(epoch[3] or '0')))
  redis.call('HSET', KEYS[1], 'server', server or '', 'since', since)
end
redis.call('HSET', KEYS[1], 'confirmed', string.format('%.0f', now))
local owned = {}
for i = 1, #ARGV, 2 do owned[#owned + 1] = redis.call('GET', ARGV[i]) == ARGV[i + 1] and 1 or 0 end
return { since, owned }
