-- Counts all at one moment: a payment moves from list to list, and counted one by one it could be in none.
-- A script, because Redis rejects a transaction while it is out of memory. KEYS wait, delayed, prioritized, paused, active.
return {
  redis.call('LLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[3]) + redis.call('LLEN', KEYS[4]),
  redis.call('LLEN', KEYS[5]),
}
