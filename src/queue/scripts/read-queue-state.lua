-- Reads the queue and the heartbeats at one moment, at a cost that does not depend on the number of payments. It only reads,
-- so Redis runs it while it is out of memory. What it may not read, or what is of another type, counts as empty:
-- server-check.ts reports that.
-- KEYS wait, active, delayed, prioritized, unresolved, unresolved-fallback, meta.
-- ARGV key prefix of the jobs, heartbeats' key, start of every heartbeat's key, how many jobs of a list to look at, how many
-- heartbeats to read, steering's key. Heartbeats and steering are no KEYS, because a user without the right to them may still
-- read the queue.
-- Returns the time in ms; lengths of wait, active, delayed, prioritized; 1 if paused; the oldest time of acceptance in ms
-- ('': none); of each gateway the number of unresolved payments and since when the oldest is one ('': none); INFO's text
-- (''); the heartbeats; why they could not be read ('': they could); the fields of the steering.
local look = tonumber(ARGV[4])
local oldest = ''

local function count(command, ...)
  local reply = redis.pcall(command, ...)
  return type(reply) == 'number' and reply or 0
end

-- Returns the first id whose job is there: an entry may outlive its job. An error reply has no elements.
local function lookAt(ids)
  local first
  for _, id in ipairs(ids) do
    local acceptedAt = redis.pcall('HGET', ARGV[1] .. id, 'timestamp')
    if type(acceptedAt) == 'string' and tonumber(acceptedAt) then
      if oldest == '' or tonumber(acceptedAt) < tonumber(oldest) then oldest = acceptedAt end
      first = first or id
    end
  end
  return first
end

local function unresolvedAt(key)
  local first = lookAt(redis.pcall('ZRANGE', key, 0, look - 1))
  return { count('ZCARD', key), first and redis.call('ZSCORE', key, first) or '' }
end

local time = redis.call('TIME')
-- Workers take from the right end.
lookAt(redis.pcall('LRANGE', KEYS[1], -look, -1))
lookAt(redis.pcall('LRANGE', KEYS[2], -look, -1))
lookAt(redis.pcall('ZRANGE', KEYS[3], 0, look - 1))
local unresolved = { unresolvedAt(KEYS[5]), unresolvedAt(KEYS[6]) }
local info = redis.pcall('INFO', 'memory')
local heartbeats = {}
local ids = redis.pcall('ZRANGE', ARGV[2], -tonumber(ARGV[5]), -1)
for _, id in ipairs(ids) do
  local heartbeat = redis.pcall('GET', ARGV[3] .. id)
  if type(heartbeat) == 'string' then heartbeats[#heartbeats + 1] = heartbeat end
end
local steering = redis.pcall('HMGET', ARGV[6], 'primary', 'fallback', 'pause')

return {
  string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
  count('LLEN', KEYS[1]),
  count('LLEN', KEYS[2]),
  count('ZCARD', KEYS[3]),
  count('ZCARD', KEYS[4]),
  redis.pcall('HGET', KEYS[7], 'paused') == '1' and 1 or 0,
  oldest,
  unresolved,
  type(info) == 'string' and info or '',
  heartbeats,
  ids.err or '',
  steering.err and {} or steering,
}
