-- Counts all at one moment: a payment goes from one of these lists to another, and counted one by one it could be in none.
-- By a script, because a transaction is refused while Redis is out of memory. KEYS wait, delayed, prioritized, active.
return {
  redis.call('LLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[3]),
  redis.call('LLEN', KEYS[4]),
}
