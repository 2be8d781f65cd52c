import { Cluster, type Redis } from 'ioredis';
import type { Durability } from '../config.ts';
import type { Failure } from '../process/outage-log.ts';
import { epochKey, KEY_TYPES, type PaymentQueueName, queueKey, shardsKey } from './bullmq-layout.ts';
import { explainRedisError, isMissingRight } from './redis-errors.ts';
import { readScript } from './scripts.ts';

/** Decides which commands the user must be allowed. */
export type Role = 'api' | 'worker';

/**
 * Every command of the scripts, tried on a key that only the check uses (@) and deletes. Only a missing right counts: other
 * errors (out of memory, too few replicas) pass by themselves. DEL comes first, because nothing is tried without it, and
 * last, to clean up.
 */
const TRIED_BY_ALL = [
  ...['DEL @', 'TIME', 'TYPE @', 'EXISTS @', 'GET @', 'SET @ 1', 'INCR @', 'DEL @'],
  ...['HSET @ f 1', 'HSETNX @ f 1', 'HMSET @ f 1', 'HGET @ f', 'HMGET @ f', 'DEL @'],
  ...['XADD @ MAXLEN ~ 1 * f 1', 'DEL @'],
  ...['LPUSH @ a', 'LLEN @', 'LREM @ 1 a', 'DEL @'],
  ...['ZADD @ 1 a', 'ZCARD @', 'ZRANGE @ 0 0', 'ZSCORE @ a', 'ZREVRANGEBYSCORE @ 1 0', 'ZREM @ a', 'DEL @'],
];

const TRIED_BY_WORKERS = [
  ...['HGETALL @', 'HEXISTS @ f', 'HINCRBY @ f 1', 'HDEL @ f', 'PEXPIRE @ 1000', 'PTTL @', 'DEL @'],
  ...['RPUSH @ a', 'RPOPLPUSH @ @', 'LRANGE @ 0 0', 'LTRIM @ 0 1', 'DEL @'],
  ...['SADD @ a', 'SCARD @', 'SMEMBERS @', 'SREM @ a', 'DEL @'],
  ...['XTRIM @ MAXLEN 1', 'ZPOPMIN @', 'ZRANGEBYSCORE @ 0 1', 'ZREVRANGE @ 0 0'],
  ...['ZREMRANGEBYRANK @ 0 0', 'ZREMRANGEBYSCORE @ 0 1', 'DEL @'],
];

/** What a process does with its Redis, and so which rights it needs. */
export interface Use {
  readonly role: Role;
  readonly durability: Durability | undefined;
  /** Whether another server may take the place of this one. */
  readonly canFailOver: boolean;
}

/** The key of the epoch has a place of its own (epoch.ts). Only what changes nothing is tried on it: it may be in use. */
function triedOnEpoch({ role, durability, canFailOver }: Use, epoch: string): readonly string[] {
  if (role === 'worker') {
    return durability === 'disk' && !canFailOver ? [] : [`HDEL ${epoch} check`, `HMGET ${epoch} check`];
  }
  return durability === 'replica' || canFailOver ? [`HSETNX ${epoch} latest 0`] : [];
}

/** The commands that a role must be allowed, for the test that compares them with those of the scripts. */
export function commandsOf(role: Role): ReadonlySet<string> {
  return new Set(triedBy(role).map((command) => command.split(' ')[0]!));
}

function triedBy(role: Role): readonly string[] {
  return role === 'api' ? TRIED_BY_ALL : [...TRIED_BY_ALL, ...TRIED_BY_WORKERS];
}

const CHECK_SCRIPT = readScript('check-rights');

/**
 * The rights that the user lacks, and the keys of the queue that another program has created.
 * @throws when Redis does not reply
 */
export async function checkRights(redis: Redis | Cluster, queue: PaymentQueueName, use: Use): Promise<Failure[]> {
  const { role, durability } = use;
  const epoch = epochKey(queue);
  const tried = triedOnEpoch(use, epoch);
  const expected = Object.entries(KEY_TYPES).map(([type, redisType]) => [queueKey(queue, type), redisType] as const);
  expected.push([shardsKey(queue), 'string']);
  if (tried.length > 0) expected.push([epoch, 'hash']);
  const keys = [queueKey(queue, 'check'), ...expected.map(([key]) => key)];
  let replies: string[];
  let types: string[];
  const forbidden = new Set<string>();
  try {
    // Not by the script, because scripts may not block. This does not block either: its time-out is invalid.
    if (role === 'worker') await noteIfForbidden(redis, forbidden, 'BZPOPMIN', keys[0]!, 'none');
    const reply = await redis.eval(CHECK_SCRIPT, keys.length, ...keys, ...triedBy(role), ...tried);
    [replies, types] = reply as [string[], string[]];
    await noteIfForbidden(redis, forbidden, 'EVALSHA', '0'.repeat(40), '1', keys[0]!);
    if (durability === 'replica') {
      await noteIfForbidden(redis, forbidden, 'WAIT', '0', '1');
      await noteIfForbidden(redis, forbidden, 'SCRIPT LOAD', ')');
      if (redis instanceof Cluster) await noteIfForbidden(redis, forbidden, 'CLUSTER KEYSLOT', epoch);
    }
  } catch (error) {
    const failure = explainRedisError(error);
    if (failure.code === 'missing_right') return [failure];
    throw error;
  }
  for (let i = 0; i < replies.length; i += 2) if (isMissingRight(replies[i + 1]!)) forbidden.add(replies[i]!);
  const failures: Failure[] = [];
  if (forbidden.size > 0) {
    const commands = [...forbidden].join(', ');
    failures.push({
      code: 'missing_right',
      detail: `the Redis user lacks the right to run ${commands} on the keys ${queueKey(queue, '*')}`,
    });
  }
  for (const [index, [key, type]] of expected.entries()) {
    const actual = types[index]!;
    if (actual === 'none' || actual === type) continue;
    failures.push({
      code: 'wrong_type',
      detail: `the key ${key} is a ${actual} instead of a ${type}: another program uses this prefix in this database. Set another REDIS_KEY_PREFIX`,
    });
  }
  return failures;
}

/** Sends a command that fails in any case, or changes nothing, and notes its name when it is not allowed. */
async function noteIfForbidden(
  redis: Redis | Cluster,
  forbidden: Set<string>,
  command: string,
  ...args: string[]
): Promise<void> {
  try {
    const [name, ...subcommand] = command.split(' ');
    await redis.call(name!, ...subcommand, ...args);
  } catch (error) {
    if (explainRedisError(error).code === 'unreachable') throw error;
    if (isMissingRight((error as Error).message)) forbidden.add(command);
  }
}
