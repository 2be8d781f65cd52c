import type { Cluster, Redis } from 'ioredis';
import type { Logger } from '../process/logger.ts';
import { createOutageLog, type Failure } from '../process/outage-log.ts';
import { explainRedisError } from './redis-errors.ts';

/** Looks after every connect, and again and again, whether the connected Redis can be used. */
export interface RedisCheck {
  /** Why nothing may be written or taken now; undefined while Redis is usable. */
  readonly fault: RedisFault | undefined;
  /** What an operator should correct, although Redis is used. */
  readonly problems: readonly Failure[];
  /** Resolves as soon as there is no fault, or when the check is closed. */
  whenUsable(): Promise<void>;
  close(): void;
}

export interface RedisFault extends Failure {
  /** By this process's clock. */
  readonly since: Date;
}

/** What one look has found. */
export interface Findings {
  readonly fatal: Failure | undefined;
  readonly problems: readonly Failure[];
}

/** How often a Redis with a fault is looked at again, so that a correction is noticed soon. */
const RECHECK_MS = 1_000;

/** The fault until the first look at a new connection has ended. */
export const NOT_CHECKED: Failure = {
  code: 'not_checked',
  detail: 'this Redis has not been checked since it was connected',
};

/**
 * @param look rejects when Redis does not reply
 * @param refreshMs how often a usable Redis is looked at again
 * @param messages for the log. A problem is logged once, and only once by all checks that share `warned`
 */
export function startRedisCheck({
  redis,
  look,
  refreshMs,
  messages,
  logger,
  warned = new Set(),
}: {
  redis: Redis | Cluster;
  look: () => Promise<Findings>;
  refreshMs: number;
  messages: { readonly fault: string; readonly end: string; readonly problem: string };
  logger: Logger;
  warned?: Set<string>;
}): RedisCheck {
  let fault: RedisFault | undefined = { ...NOT_CHECKED, since: new Date() };
  let problems: readonly Failure[] = [];
  let isClosed = false;
  let timer: NodeJS.Timeout | undefined;
  let running = 0;
  let isLooking = false;
  let isNodeNew = false;
  let waiting: (() => void)[] = [];
  const outage = createOutageLog(logger, { message: messages.fault, endMessage: messages.end, level: 'error' });

  function settle(next: Failure | undefined): void {
    fault = next && { ...next, since: fault?.code === next.code ? fault.since : new Date() };
    if (next !== undefined) return;
    for (const resolve of waiting) resolve();
    waiting = [];
  }

  /** `lookAndJudge` never rejects. */
  const lookAgain = () => void lookAndJudge();

  async function lookAndJudge(): Promise<void> {
    clearTimeout(timer);
    running += 1;
    const mine = running;
    isLooking = true;
    isNodeNew = false;
    let found: Findings | Error;
    try {
      found = await look();
    } catch (error) {
      found = error as Error;
    }
    // A new connection has begun a newer look.
    if (isClosed || mine !== running) return;
    isLooking = false;
    if (found instanceof Error) couldNotLook(found);
    else judge(found);
    timer = setTimeout(lookAgain, fault === undefined && !isNodeNew ? refreshMs : RECHECK_MS).unref();
  }

  /** A usable Redis stays usable. If it is down, each command notices that itself. */
  function couldNotLook(error: Error): void {
    if (fault === undefined) return;
    const failure = explainRedisError(error);
    // redis.ts logs a lost connection.
    if (failure.code !== 'unreachable') outage.failed(failure);
    settle(failure);
  }

  function judge({ fatal, problems: found }: Findings): void {
    problems = found;
    for (const { code, detail } of problems) {
      if (warned.has(detail)) continue;
      warned.add(detail);
      logger.warn(messages.problem, { code, cause: detail });
    }
    if (fatal !== undefined) outage.failed(fatal);
    else outage.ended();
    settle(fatal);
  }

  /** A lost node of a cluster joins again and again, so the look that is under way must not end without a result. */
  const lookAtNode = () => {
    isNodeNew = true;
    if (!isLooking) lookAgain();
  };

  const forget = () => settle(NOT_CHECKED);
  redis.on('close', forget);
  redis.on('ready', lookAgain);
  redis.on('+node', lookAtNode);
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
      redis.off('+node', lookAtNode);
      for (const resolve of waiting) resolve();
      waiting = [];
    },
  };
}

/** Usable while all of these are. */
export function everyCheck(checks: readonly RedisCheck[]): RedisCheck {
  return {
    get fault() {
      return checks.find(({ fault }) => fault !== undefined)?.fault;
    },
    get problems() {
      return checks.flatMap(({ problems }) => problems);
    },
    async whenUsable() {
      for (const check of checks) await check.whenUsable();
    },
    close() {
      for (const check of checks) check.close();
    },
  };
}
