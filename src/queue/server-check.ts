import { Cluster, type Redis } from 'ioredis';
import type { Durability } from '../config.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog, type Failure } from '../process/outage-log.ts';
import { KEY_TYPES, type PaymentQueueName, queueKey } from './bullmq-layout.ts';
import { explainRedisError, isMissingRight } from './redis-errors.ts';
import { readScript } from './scripts.ts';

/**
 * Checks whether the connected Redis can be trusted with payments, after every connect and before anything is written or
 * taken. These servers accept commands and lose payments: one that evicts keys, one that is less durable than promised,
 * one whose user lacks a right, and one where another program uses our keys.
 *
 * A missing right must be found before the first write. A script that meets it half way has done the first half.
 */
export interface ServerCheck {
  /** Why nothing may be written or taken now; undefined while the server is usable. */
  readonly fault: Failure | undefined;
  /** What an operator should correct, although payments are accepted. */
  readonly problems: readonly Failure[];
  /** Resolves as soon as there is no fault, or when the check is closed. */
  whenUsable(): Promise<void>;
  close(): void;
}

export interface ServerCheckOptions {
  readonly redis: Redis | Cluster;
  readonly queue: PaymentQueueName;
  /** Undefined: `disk` is expected, but less is a problem and no fault. */
  readonly durability: Durability | undefined;
  /** Decides which commands the user must be allowed. */
  readonly role: 'api' | 'worker';
  readonly logger: Logger;
}

/** How often a server with a fault is checked again, so that a correction is noticed soon. */
const RECHECK_MS = 1_000;

/** How often a usable server is checked again: an administrator may change its settings. */
const REFRESH_MS = 30_000;

const NOT_CHECKED: Failure = { code: 'not_checked', detail: 'this Redis has not been checked since it was connected' };

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

/** The commands that a role must be allowed, for the test that compares them with those of BullMQ's scripts. */
export function commandsOf(role: ServerCheckOptions['role']): ReadonlySet<string> {
  return new Set(triedBy(role).map((command) => command.split(' ')[0]!));
}

function triedBy(role: ServerCheckOptions['role']): readonly string[] {
  return role === 'api' ? TRIED_BY_ALL : [...TRIED_BY_ALL, ...TRIED_BY_WORKERS];
}

const CHECK_SCRIPT = readScript('check-rights');

/** Settings of the server. Undefined: we may not read it. */
interface Settings {
  readonly maxmemoryPolicy: string | undefined;
  readonly appendonly: boolean | undefined;
  readonly appendfsync: string | undefined;
}

export function createServerCheck({ redis, queue, durability, role, logger }: ServerCheckOptions): ServerCheck {
  let fault: Failure | undefined = NOT_CHECKED;
  let problems: readonly Failure[] = [];
  let isClosed = false;
  let timer: NodeJS.Timeout | undefined;
  let running = 0;
  let waiting: (() => void)[] = [];
  const warned = new Set<string>();
  const outage = createOutageLog(logger, {
    message: 'not ready: Redis cannot be used as it is set up',
    endMessage: 'ready: Redis can be used',
    level: 'error',
  });

  function settle(next: Failure | undefined): void {
    fault = next;
    if (next !== undefined) return;
    for (const resolve of waiting) resolve();
    waiting = [];
  }

  async function look(): Promise<void> {
    clearTimeout(timer);
    running += 1;
    const mine = running;
    let found: readonly Failure[] | Error;
    try {
      found = await findings();
    } catch (error) {
      found = error as Error;
    }
    // A new connection has begun a newer look.
    if (isClosed || mine !== running) return;
    if (found instanceof Error) couldNotLook(found);
    else judge(found);
    timer = setTimeout(look, fault === undefined ? REFRESH_MS : RECHECK_MS).unref();
  }

  /** A usable server stays usable. If it is down, each command notices that itself. */
  function couldNotLook(error: Error): void {
    if (fault === undefined) return;
    const failure = explainRedisError(error);
    // redis.ts logs a lost connection.
    if (failure.code !== 'unreachable') outage.failed(failure);
    settle(failure);
  }

  function judge(found: readonly Failure[]): void {
    const isFatal = ({ code }: Failure) =>
      code !== 'unreadable' && (code !== 'not_durable' || durability !== undefined);
    const [fatal] = found.filter(isFatal);
    problems = found.filter((failure) => !isFatal(failure));
    for (const { code, detail } of problems) {
      if (warned.has(detail)) continue;
      warned.add(detail);
      logger.warn('Redis is used although it may not keep what it accepts', { code, cause: detail });
    }
    if (fatal !== undefined) outage.failed(fatal);
    else outage.ended();
    settle(fatal);
  }

  async function findings(): Promise<Failure[]> {
    const servers = redis instanceof Cluster ? redis.nodes('master') : [redis];
    const [lacking, ...settings] = await Promise.all([lackingRights(), ...servers.map(readSettings)]);
    return [...lacking, ...settings.flatMap((each) => judgeSettings(each, durability))];
  }

  async function lackingRights(): Promise<Failure[]> {
    const keys = [queueKey(queue, 'check'), ...Object.keys(KEY_TYPES).map((type) => queueKey(queue, type))];
    let replies: string[];
    let types: string[];
    const forbidden = new Set<string>();
    try {
      // Not by the script, because scripts may not block. This does not block either: its time-out is invalid.
      if (role === 'worker') await noteIfForbidden(forbidden, 'BZPOPMIN', keys[0]!, 'none');
      const reply = await redis.eval(CHECK_SCRIPT, keys.length, ...keys, ...triedBy(role));
      [replies, types] = reply as [string[], string[]];
      await noteIfForbidden(forbidden, 'EVALSHA', '0'.repeat(40), '1', keys[0]!);
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
    for (const [index, [type, expected]] of Object.entries(KEY_TYPES).entries()) {
      const actual = types[index]!;
      if (actual === 'none' || actual === expected) continue;
      failures.push({
        code: 'wrong_type',
        detail: `the key ${queueKey(queue, type)} is a ${actual} instead of a ${expected}: another program uses this prefix in this database`,
      });
    }
    return failures;
  }

  /** Sends a command that fails in any case, and notes its name when it is not allowed. */
  async function noteIfForbidden(forbidden: Set<string>, command: string, ...args: string[]): Promise<void> {
    try {
      await redis.call(command, ...args);
    } catch (error) {
      if (explainRedisError(error).code === 'unreachable') throw error;
      if (isMissingRight((error as Error).message)) forbidden.add(command);
    }
  }

  const forget = () => settle(NOT_CHECKED);
  redis.on('close', forget);
  redis.on('ready', look);
  redis.on('+node', look);
  if (redis.status === 'ready') void look();

  return {
    get fault() {
      return fault;
    },
    get problems() {
      return problems;
    },
    async whenUsable() {
      if (fault === undefined || isClosed) return;
      await new Promise<void>((resolve) => {
        waiting.push(resolve);
      });
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
      redis.off('close', forget);
      redis.off('ready', look);
      redis.off('+node', look);
      for (const resolve of waiting) resolve();
      waiting = [];
    },
  };
}

/** @throws when Redis does not reply. */
async function readSettings(server: Redis): Promise<Settings> {
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

/** Exported for its tests. */
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
