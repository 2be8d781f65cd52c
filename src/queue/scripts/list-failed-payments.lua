-- Returns a page of the oldest failed jobs beyond the newest ones, which stay. When there are none, returns those of a page
-- that are not buried. Of each: id, 1 if it is beyond, and its fields.
-- KEYS failed. ARGV key prefix, how many jobs stay, jobs of a page.
local page = tonumber(ARGV[3])
local beyond = math.min(redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[2]), page)
local ids = redis.call('ZRANGE', KEYS[1], 0, (beyond > 0 and beyond or page) - 1)
local found = {}
for _, id in ipairs(ids) do
  local runs = redis.call('HMGET', ARGV[1] .. id, 'buried', 'ats')
  if beyond > 0 or not runs[1] or runs[1] ~= runs[2] then
    found[#found + 1] = { id, beyond > 0 and 1 or 0, redis.call('HMGET', ARGV[1] .. id,
      'data', 'failedReason', 'timestamp', 'finishedOn', 'ats', 'atm', 'progress', 'buried') }
  end
end
return found
