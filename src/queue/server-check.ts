import { Cluster, type Redis } from 'ioredis';
import type { Durability } from '../config.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog, type Failure } from '../process/outage-log.ts';
import type { PaymentQueueName } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { checkRights, type Role } from './server-rights.ts';
import { judgeSettings, readSettings } from './server-settings.ts';

/**
 * Checks whether the connected Redis can be trusted with payments, after every connect and before anything is written or
 * taken. These servers accept commands and lose payments: one that evicts keys, one that is less durable than promised,
 * one whose user lacks a right, and one where another program uses our keys.
 *
 * A missing right must be found before the first write. A script that meets it half way has done the first half.
 */
export interface ServerCheck {
  /** Why nothing may be written or taken now; undefined while the server is usable. */
  readonly fault: ServerFault | undefined;
  /** What an operator should correct, although payments are accepted. */
  readonly problems: readonly Failure[];
  /** Resolves as soon as there is no fault, or when the check is closed. */
  whenUsable(): Promise<void>;
  close(): void;
}

export interface ServerFault extends Failure {
  /** By this process's clock. */
  readonly since: Date;
}

/** How long a check may take before its absence is a fault that an operator should see. */
const CHECK_TAKES_MS = 2_000;

/** The fault as operators should see it: undefined, too, while the first check of a new connection is under way. */
export function lastingFault({ fault }: Pick<ServerCheck, 'fault'>): ServerFault | undefined {
  const isNew = fault?.code === NOT_CHECKED.code && Date.now() - fault.since.getTime() < CHECK_TAKES_MS;
  return isNew ? undefined : fault;
}

export interface ServerCheckOptions {
  readonly redis: Redis | Cluster;
  readonly queue: PaymentQueueName;
  /** Undefined: `disk` is expected, but less is a problem and no fault. */
  readonly durability: Durability | undefined;
  readonly role: Role;
  readonly logger: Logger;
}

/** How often a server with a fault is checked again, so that a correction is noticed soon. */
const RECHECK_MS = 1_000;

/** How often a usable server is checked again: an administrator may change its settings. */
const REFRESH_MS = 30_000;

/** The same where replicas count, because they come and go. */
const REFRESH_REPLICAS_MS = 5_000;

/** What an operator should correct, while payments are accepted all the same. */
const MERE_PROBLEMS = ['unreadable', 'few_replicas', 'failover_loses'];

const NOT_CHECKED: Failure = { code: 'not_checked', detail: 'this Redis has not been checked since it was connected' };

export function createServerCheck({ redis, queue, durability, role, logger }: ServerCheckOptions): ServerCheck {
  const canFailOver = redis instanceof Cluster || Boolean(redis.options.sentinels);
  const refreshMs = durability === 'replica' ? REFRESH_REPLICAS_MS : REFRESH_MS;
  let fault: ServerFault | undefined = { ...NOT_CHECKED, since: new Date() };
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
    fault = next && { ...next, since: fault?.code === next.code ? fault.since : new Date() };
    if (next !== undefined) return;
    for (const resolve of waiting) resolve();
    waiting = [];
  }

  /** `look` never rejects. */
  const lookAgain = () => void look();

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
    timer = setTimeout(lookAgain, fault === undefined ? refreshMs : RECHECK_MS).unref();
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
      !MERE_PROBLEMS.includes(code) && (code !== 'not_durable' || durability !== undefined);
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
    const promise = { durability, canFailOver };
    const [rights, ...settings] = await Promise.all([
      checkRights(redis, queue, { role, ...promise }),
      ...servers.map(readSettings),
    ]);
    return [...rights, ...settings.flatMap((each) => judgeSettings(each, promise))];
  }

  const forget = () => settle(NOT_CHECKED);
  redis.on('close', forget);
  redis.on('ready', lookAgain);
  redis.on('+node', lookAgain);
  if (redis.status === 'ready') lookAgain();

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
      redis.off('ready', lookAgain);
      redis.off('+node', lookAgain);
      for (const resolve of waiting) resolve();
      waiting = [];
    },
  };
}
