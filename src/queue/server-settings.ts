import type { Redis } from 'ioredis';
import type { Durability } from '../config.ts';
import type { Failure } from '../process/outage-log.ts';
import { explainRedisError } from './redis-errors.ts';

/** Settings of the server. Undefined: we may not read it. */
export interface Settings {
  readonly maxmemoryPolicy: string | undefined;
  readonly appendonly: boolean | undefined;
  readonly appendfsync: string | undefined;
  /** Replicas that follow the server now. */
  readonly replicas: number | undefined;
}

/** @throws when Redis does not reply */
export async function readSettings(server: Redis): Promise<Settings> {
  const [memory, persistence, replication, config] = await Promise.all([
    replyOrNone(server.call('INFO', 'memory')),
    replyOrNone(server.call('INFO', 'persistence')),
    replyOrNone(server.call('INFO', 'replication')),
    replyOrNone(server.call('CONFIG', 'GET', 'appendfsync')),
  ]);
  const field = (info: unknown, name: string) =>
    typeof info === 'string' ? new RegExp(`^${name}:(\\S+)`, 'm').exec(info)?.[1] : undefined;
  const aof = field(persistence, 'aof_enabled');
  return {
    maxmemoryPolicy: field(memory, 'maxmemory_policy'),
    appendonly: aof === undefined ? undefined : aof === '1',
    appendfsync: Array.isArray(config) && typeof config[1] === 'string' ? config[1] : undefined,
    replicas: typeof replication === 'string' ? [...replication.matchAll(ONLINE_REPLICA)].length : undefined,
  };
}

/** A replica that still loads the data is not `online`. */
const ONLINE_REPLICA = /^slave\d+:.*\bstate=online\b/gm;

/** Undefined when we lack the right, or when a proxy does not know the command. */
async function replyOrNone(reply: Promise<unknown>): Promise<unknown> {
  try {
    return await reply;
  } catch (error) {
    if (explainRedisError(error).code === 'unreachable') throw error;
    return undefined;
  }
}

/**
 * What is wrong with settings that promise this durability. Undefined: `disk` is expected.
 * @param canFailOver whether another server may take the place of this one
 */
export function judgeSettings(
  { maxmemoryPolicy, appendonly, appendfsync, replicas }: Settings,
  { durability, canFailOver }: { durability: Durability | undefined; canFailOver: boolean },
): Failure[] {
  const failures: Failure[] = [];
  const unreadable: string[] = [];
  if (maxmemoryPolicy === undefined) unreadable.push('maxmemory-policy (INFO)');
  else if (maxmemoryPolicy !== 'noeviction') {
    failures.push({
      code: 'eviction_policy',
      detail: `Redis has maxmemory-policy ${maxmemoryPolicy} and may delete payments: set it to noeviction`,
    });
  }
  if (durability !== 'memory') {
    const promise =
      durability === undefined ? 'DURABILITY is not set and disk is expected' : `DURABILITY is ${durability}`;
    const where = durability === 'replica' ? ' on every node' : '';
    if (appendonly === false || (appendfsync !== undefined && appendfsync !== 'always')) {
      const actual = appendonly === false ? 'appendonly no' : `appendfsync ${appendfsync}`;
      failures.push({
        code: 'not_durable',
        detail: `${promise}, but Redis has ${actual}: set appendonly yes and appendfsync always${where}, or DURABILITY=memory`,
      });
    } else {
      if (appendonly === undefined) unreadable.push('appendonly (INFO)');
      if (appendfsync === undefined) unreadable.push('appendfsync (CONFIG GET)');
    }
  }
  if (durability === 'replica') failures.push(...judgeReplicas(replicas));
  else if (canFailOver) {
    failures.push({
      code: 'failover_loses',
      detail: 'a failover of this Redis may lose payments that were accepted: set DURABILITY=replica',
    });
  }
  if (unreadable.length > 0) {
    failures.push({ code: 'unreadable', detail: `the Redis user may not read ${unreadable.join(', ')}` });
  }
  return failures;
}

/** `WAIT` itself decides whether a payment is accepted, so a lack of replicas is no fault of the server's settings. */
function judgeReplicas(replicas: number | undefined): Failure[] {
  if (replicas === undefined) {
    const why = 'without it a worker does not notice when another server has replaced this one';
    return [{ code: 'missing_right', detail: `DURABILITY is replica, and the Redis user may not run INFO: ${why}` }];
  }
  if (replicas >= 2) return [];
  const detail =
    replicas === 0
      ? 'DURABILITY is replica, and no replica follows this Redis: payments are neither accepted nor sent until one does'
      : 'DURABILITY is replica, and one replica follows this Redis: after the loss of a machine none would be left to confirm payments. Add a second one';
  return [{ code: 'few_replicas', detail }];
}
