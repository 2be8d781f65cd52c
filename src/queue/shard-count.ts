import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster, Redis } from 'ioredis';
import { QueueUnavailableError } from '../errors.ts';
import type { Logger } from '../process/logger.ts';
import type { Failure } from '../process/outage-log.ts';
import { type PaymentQueueName, queueKey, shardsKey } from './bullmq-layout.ts';
import { type RedisCheck, startRedisCheck } from './redis-check.ts';
import { explainRedisError } from './redis-errors.ts';
import { readScript } from './scripts.ts';
import type { PaymentQueues } from './shards.ts';

/**
 * Claims the number of shards for this process, after every connect and before anything is written or taken: a process with
 * another number would look for a payment in a shard where it is not.
 *
 * The number is at the relay's home and at every shard. Nobody writes over it but `npm run shards` (change-shards.ts). While that
 * drains the shards they are closed: workers go on, and the enqueue script adds nothing. That is exact; this check alone would
 * notice it some seconds late.
 *
 * While the home does not reply, a process that starts has a fault, because it does not know the number. One that runs goes on.
 */
export type ShardCount = RedisCheck;

/** What stands for the number while no new payments are taken: `closed:<number of now>:<id of the command>:<since>:<who>`. */
const CLOSED = 'closed';

export function closingMark({ count, id, sinceMs, who }: { count: number; id: string; sinceMs: number; who: string }) {
  return [CLOSED, count, id, sinceMs, who].join(':');
}

export function isClosed(mark: string): boolean {
  return mark.startsWith(CLOSED);
}

/** For people: which command has closed the shards. '' when the mark does not say so. */
export function closerOf(mark: string): string {
  const [, , , sinceMs, ...who] = mark.split(':');
  return sinceMs === undefined ? '' : `by ${who.join(':')} since ${new Date(Number(sinceMs)).toISOString()}`;
}

/** How often the number is looked at again while it fits. */
const REFRESH_MS = 3_000;

/** How long a shard may take to reply. The worker's connection would wait for a lost master, and all other shards with it. */
const REPLY_MS = 1_000;

/** The number of shards that workers use. A relay has one while nothing is written. */
export function countOf(written: string): number {
  return Number((isClosed(written) ? written.split(':')[1] : written) || 1);
}

export function createShardCount({
  redis,
  queues,
  logger,
}: {
  redis: Redis | Cluster;
  queues: PaymentQueues;
  logger: Logger;
}): ShardCount {
  const { home, shards } = queues;
  /** Claims without a reply yet. There is one of a shard at most, however long its master is lost. */
  const underWay = new Map<PaymentQueueName, Promise<string>>();

  /** @throws also when there is no reply in time */
  function claimSoon(shard: PaymentQueueName): Promise<string> {
    const claimed =
      underWay.get(shard) ?? claim(redis, shard, shards.length).finally(() => void underWay.delete(shard));
    underWay.set(shard, claimed);
    const tooLate = sleep(REPLY_MS, undefined, { ref: false }).then(() => {
      throw new Error(`no reply within ${REPLY_MS} ms`);
    });
    return Promise.race([claimed, tooLate]);
  }

  return startRedisCheck({
    redis,
    refreshMs: REFRESH_MS,
    messages: {
      fault: 'not ready: the number of shards is not that of this process',
      end: 'ready: the number of shards is that of this process',
      problem: 'the number of shards cannot be relied on',
    },
    logger,
    async look() {
      const atHome = await claim(redis, home, shards.length, ['wait', 'active', 'delayed', 'prioritized', 'paused']);
      if (countOf(atHome) !== shards.length)
        return { fatal: otherNumber(countOf(atHome), shards.length), problems: [] };
      // The lack of one shard is noticed by its own commands.
      const replies = await Promise.allSettled(shards.map(claimSoon));
      const written = replies.flatMap((reply) => (reply.status === 'fulfilled' ? [reply.value] : []));
      const fatal = written
        .filter((text) => !isClosed(text) && Number(text) !== shards.length)
        .map((text) => otherNumber(Number(text), shards.length))[0];
      return { fatal, problems: [...([atHome, ...written].some(isClosed) ? [IS_CHANGED] : []), ...refusals(replies)] };
    },
  });
}

/**
 * For what reads or changes all shards once, without a check that looks again and again.
 * @throws QueueUnavailableError also when the relay has another number: what is done then would be done to queues that nobody uses
 */
export async function expectShards(redis: Redis | Cluster, { home, shards }: PaymentQueues): Promise<void> {
  let written: string | null;
  try {
    written = await redis.get(shardsKey(home));
  } catch (cause) {
    throw noReply(cause);
  }
  // Without a number no process has used the queue yet.
  if (written === null || countOf(written) === shards.length) return;
  throw new QueueUnavailableError(otherNumber(countOf(written), shards.length).detail, { retryAfterSeconds: 1 });
}

/** Redis did not carry out a command about the number of shards. */
export function noReply(cause: unknown): QueueUnavailableError {
  const { detail } = explainRedisError(cause);
  return new QueueUnavailableError(`the number of shards: ${detail}`, { cause, retryAfterSeconds: 1 });
}

/** Logged and shown, and no fault: the workers must drain the shards. */
const IS_CHANGED: Failure = {
  code: 'shards_closed',
  detail: 'the number of shards is being changed: no payment is accepted until that is done (npm run shards)',
};

/** The fault of a process whose shards are not those of the relay. */
export const OTHER_SHARDS = 'other_shards';

function otherNumber(written: number, own: number): Failure {
  return {
    code: OTHER_SHARDS,
    detail: `QUEUE_SHARDS is ${own}, and the relay has ${written} ${written === 1 ? 'shard' : 'shards'}: set QUEUE_SHARDS=${written}, or change the number with npm run shards`,
  };
}

/** What Redis replied instead of the number. That it does not reply is noticed elsewhere. */
function refusals(replies: readonly PromiseSettledResult<string>[]): Failure[] {
  return replies
    .flatMap((reply) => (reply.status === 'rejected' ? [explainRedisError(reply.reason)] : []))
    .filter(({ code }) => code !== 'unreachable');
}

const CLAIM_SCRIPT = readScript('claim-shards');

/** @param lists of a queue that would be lost from sight @returns what is written now @throws when Redis does not reply */
async function claim(
  redis: Redis | Cluster,
  queue: PaymentQueueName,
  count: number,
  lists: readonly string[] = [],
): Promise<string> {
  const keys = [shardsKey(queue), ...lists.map((type) => queueKey(queue, type))];
  return String(await redis.eval(CLAIM_SCRIPT, keys.length, ...keys, count));
}
