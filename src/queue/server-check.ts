import { Cluster, type Redis } from 'ioredis';
import type { Durability } from '../config.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog, type Failure } from '../process/outage-log.ts';
import { KEY_TYPES, type PaymentQueueName, queueKey } from './bullmq-layout.ts';
import { explainRedisError, isMissingRight } from './redis-errors.ts';
import { readScript } from './scripts.ts';

/**
 * Whether the Redis that we are connected to can be trusted with payments. It is looked at after every connect and before
 * anything is written or taken: a server that evicts keys, one that keeps less than was promised, one whose user lacks a
 * right, and one where another program uses our keys all accept commands, and lose payments.
 *
 * A lacking right matters before the first write. A script that meets it in its middle has done the first half.
 */
export interface ServerCheck {
  /** Why nothing may be written or taken now; undefined while all is well. */
  readonly fault: Failure | undefined;
  /** What is not as it should be, although payments are accepted. For people to see. */
  readonly problems: readonly Failure[];
  /** Resolves as soon as there is no fault, or when the check is closed. */
  whenUsable(): Promise<void>;
  close(): void;
}

export interface ServerCheckOptions {
  readonly redis: Redis | Cluster;
  readonly queue: PaymentQueueName;
  /** Undefined: `disk` is expected, but a contradiction is only a problem. */
  readonly durability: Durability | undefined;
  /** Which commands it must be allowed. */
  readonly role: 'api' | 'worker';
  readonly logger: Logger;
}

/** While it may not be used: how soon it is noticed that somebody has put it right. */
const RECHECK_MS = 1_000;

/** While all is well: an administrator may change a setting of a running server. */
const REFRESH_MS = 30_000;

const NOT_CHECKED: Failure = { code: 'not_checked', detail: 'this Redis has not been checked since it was connected' };

/**
 * Every command of the scripts, tried on a key of its own (@) that is gone afterwards. Whether it succeeds does not matter (out
 * of memory, too few replicas: those pass by themselves), only whether it is allowed. DEL comes first, as without it nothing
 * is tried, and last, to clean up.
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

/** What the server tells of itself. Undefined: it does not let us see it. */
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
    // A new connection has begun its own look meanwhile.
    if (isClosed || mine !== running) return;
    if (found instanceof Error) couldNotLook(found);
    else judge(found);
    timer = setTimeout(look, fault === undefined ? REFRESH_MS : RECHECK_MS).unref();
  }

  /** What is usable stays so: whether it still answers, everybody who asks it learns for himself. */
  function couldNotLook(error: Error): void {
    if (fault === undefined) return;
    const failure = explainRedisError(error);
    // That the connection is lost is said where it is kept.
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
    const refused = new Set<string>();
    try {
      // Asked for by itself, as scripts may not block. It does not block: its time-out is none.
      if (role === 'worker') await allowed(refused, 'BZPOPMIN', keys[0]!, 'none');
      const reply = await redis.eval(CHECK_SCRIPT, keys.length, ...keys, ...triedBy(role));
      [replies, types] = reply as [string[], string[]];
      await allowed(refused, 'EVALSHA', '0'.repeat(40), '1', keys[0]!);
    } catch (error) {
      const failure = explainRedisError(error);
      if (failure.code === 'missing_right') return [failure];
      throw error;
    }
    for (let i = 0; i < replies.length; i += 2) if (isMissingRight(replies[i + 1]!)) refused.add(replies[i]!);
    const failures: Failure[] = [];
    if (refused.size > 0) {
      const commands = [...refused].join(', ');
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

  /** Sends a command that fails whether or not it is allowed, and notes the name of one that is not. */
  async function allowed(refused: Set<string>, command: string, ...args: string[]): Promise<void> {
    try {
      await redis.call(command, ...args);
    } catch (error) {
      if (explainRedisError(error).code === 'unreachable') throw error;
      if (isMissingRight((error as Error).message)) refused.add(command);
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

/** What cannot be read, for want of a right or because a proxy does not know the command, is undefined. */
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
      detail: `Redis has maxmemory-policy ${maxmemoryPolicy} and may throw payments away: set it to noeviction`,
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
