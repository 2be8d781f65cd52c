import type { Redis } from 'ioredis';
import type { Durability } from '../config.ts';
import type { Failure } from '../process/outage-log.ts';
import { explainRedisError } from './redis-errors.ts';

/** Settings of the server. Undefined: we may not read it. */
export interface Settings {
  readonly maxmemoryPolicy: string | undefined;
  readonly appendonly: boolean | undefined;
  readonly appendfsync: string | undefined;
}

/** @throws when Redis does not reply */
export async function readSettings(server: Redis): Promise<Settings> {
  const [memory, persistence, config] = await Promise.all([
    replyOrNone(server.call('INFO', 'memory')),
    replyOrNone(server.call('INFO', 'persistence')),
    replyOrNone(server.call('CONFIG', 'GET', 'appendfsync')),
  ]);
  const field = (info: unknown, name: string) =>
    typeof info === 'string' ? new RegExp(`^${name}:(\\S+)`, 'm').exec(info)?.[1] : undefined;
  const aof = field(persistence, 'aof_enabled');
  return {
    maxmemoryPolicy: field(memory, 'maxmemory_policy'),
    appendonly: aof === undefined ? undefined : aof === '1',
    appendfsync: Array.isArray(config) && typeof config[1] === 'string' ? config[1] : undefined,
  };
}

/** Undefined when we lack the right, or when a proxy does not know the command. */
async function replyOrNone(reply: Promise<unknown>): Promise<unknown> {
  try {
    return await reply;
  } catch (error) {
    if (explainRedisError(error).code === 'unreachable') throw error;
    return undefined;
  }
}

/** What is wrong with settings that promise this durability. Undefined: `disk` is expected. */
export function judgeSettings(
  { maxmemoryPolicy, appendonly, appendfsync }: Settings,
  durability: Durability | undefined,
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
    const promise = durability === undefined ? 'DURABILITY is not set and disk is expected' : 'DURABILITY is disk';
    if (appendonly === false || (appendfsync !== undefined && appendfsync !== 'always')) {
      const actual = appendonly === false ? 'appendonly no' : `appendfsync ${appendfsync}`;
      failures.push({
        code: 'not_durable',
        detail: `${promise}, but Redis has ${actual}: set appendonly yes and appendfsync always, or DURABILITY=memory`,
      });
    } else {
      if (appendonly === undefined) unreadable.push('appendonly (INFO)');
      if (appendfsync === undefined) unreadable.push('appendfsync (CONFIG GET)');
    }
  }
  if (unreadable.length > 0) {
    failures.push({ code: 'unreadable', detail: `the Redis user may not read ${unreadable.join(', ')}` });
  }
  return failures;
}
