-- KEYS the key to try with, then the keys of the queue; ARGV the commands.
-- Returns the error replies, each after its command's name, and the types of the keys.
local replies, types = {}, {}
for i, command in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(command, '%S+') do words[#words + 1] = word == '@' and KEYS[1] or word end
  local reply = redis.pcall(unpack(words))
  if type(reply) == 'table' and reply.err then
    replies[#replies + 1] = words[1]
    replies[#replies + 1] = reply.err
    if i == 1 then break end
  end
end
for i = 2, #KEYS do
  local reply = redis.pcall('TYPE', KEYS[i])
  types[#types + 1] = reply.ok or 'none'
end
return { replies, types }
