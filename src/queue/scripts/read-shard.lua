-- Reads a shard at one moment: a payment moves from list to list, and a shard that is empty but not closed may get one at once.
-- A script, because Redis rejects a transaction while it is out of memory.
-- KEYS the number, wait, delayed, prioritized, paused, active, failed, meta.
return {
  redis.call('GET', KEYS[1]) or '',
  redis.call('LLEN', KEYS[2]) + redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4]) + redis.call('LLEN', KEYS[5]),
  redis.call('LLEN', KEYS[6]),
  redis.call('ZCARD', KEYS[7]),
  redis.call('HEXISTS', KEYS[8], 'paused'),
}
