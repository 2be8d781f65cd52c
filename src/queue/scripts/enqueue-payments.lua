-- Adds a batch of payments in one atomic step. It runs BullMQ's own script for adding a job once for each payment, and
-- checks the cap before. As one script it is exact with any number of processes, and it costs one command where
-- `addBulk` sends one for each job.
--
-- BullMQ's text is embedded as a function whose parameters stand for the script's globals: KEYS, ARGV, and a cmsgpack
-- that hands tables through, because the arguments are built here and need no decoding. It depends on the pinned
-- version of BullMQ; test/integration/enqueuer.test.ts compares its jobs with those of `queue.addBulk`.
--
-- A job that failed for good is a dead letter: posting its id again replaces it. The new job keeps its counters and its
-- binding, because they say whether an earlier attempt may have been paid (job-runs.ts).
--
-- A process with another number of shards would add payments where nobody looks for them, and one that is being drained must
-- get no more. So the number is compared here and not only by the process (shard-count.ts).
--
-- KEYS 1-9 as BullMQ's script expects them, 10 prioritized, 11 failed, 12 the number of shards, 13 the epoch, which gets the time of
-- this batch, also of one that adds nothing, because WAIT covers what was written (none: not noted).
-- ARGV 1 cap (-1: none), 2 key prefix, 3 job name, 4 job options as JSON, 5 their time of acceptance in ms ('': now), 6 the
-- caller's number of shards, then id ('' = BullMQ makes one) and data (JSON text) of each payment.
local function addStandardJob(KEYS, ARGV, cmsgpack)
--[[ the text of BullMQ's addStandardJob ]]
end

local shards = redis.call('GET', KEYS[12])
if shards and shards ~= ARGV[6] then
  local why = string.sub(shards, 1, 6) == 'closed' and 'it is being changed' or 'it is ' .. shards .. ', and QUEUE_SHARDS is ' .. ARGV[6]
  return redis.error_reply('SHARDS ' .. why)
end

-- BullMQ writes every change of a job to a stream, for listeners we do not have; its own default is to keep 10,000.
redis.call('HSETNX', KEYS[3], 'opts.maxLenEvents', 100)

local asTables = { unpack = function(value) return value end }
local cap = tonumber(ARGV[1])
local prefix = ARGV[2]
local options = cjson.decode(ARGV[4])
-- One clock for all: a payment's age must not depend on the API node that accepted it.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local timestamp = ARGV[5] ~= '' and ARGV[5] or now
if KEYS[13] then redis.call('HSET', KEYS[13], 'latest', now) end
local size = redis.call('LLEN', KEYS[1]) + redis.call('ZCARD', KEYS[6]) + redis.call('ZCARD', KEYS[10])
local results = {}

for i = 7, #ARGV, 2 do
  local id = ARGV[i]
  local jobKey = prefix .. id
  local exists = id ~= '' and redis.call('EXISTS', jobKey) == 1
  local isDeadLetter = exists and redis.call('ZSCORE', KEYS[11], id)
  if exists and not isDeadLetter then
    results[#results + 1] = 1
  elseif cap >= 0 and size >= cap then
    results[#results + 1] = 2
  else
    local history
    if isDeadLetter then
      history = redis.call('HMGET', jobKey, 'ats', 'atm', 'progress')
      redis.call('ZREM', KEYS[11], id)
      redis.call('DEL', jobKey, jobKey .. ':logs')
    end
    local isAdded, failure = pcall(addStandardJob, KEYS, { { prefix, id, ARGV[3], timestamp }, ARGV[i + 1], options }, asTables)
    if not isAdded then
      -- Half a job would be in no list, and every later post of its id would count as a duplicate.
      redis.pcall('LREM', KEYS[1], 1, id)
      redis.pcall('DEL', jobKey)
      return type(failure) == 'table' and failure or redis.error_reply(failure)
    end
    -- A dead letter is older than its job. An epoch (confirm-runs.lua) is about what happened to the job.
    if ARGV[5] ~= '' then redis.call('HSET', jobKey, 'enqueuedAt', now) end
    if history then
      for position, field in ipairs({ 'ats', 'atm', 'progress' }) do
        if history[position] then redis.call('HSET', jobKey, field, history[position]) end
      end
    end
    size = size + 1
    results[#results + 1] = 0
  end
end

return results
