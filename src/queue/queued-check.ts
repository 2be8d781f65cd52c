import type { Cluster, Redis } from 'ioredis';
import { QueueUnavailableError } from '../errors.ts';
import { within } from '../process/deadline.ts';
import { type PaymentQueueName, queueKey } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineScript } from './scripts.ts';
import type { ServerCheck } from './server-check.ts';
import { askShards } from './shards.ts';

/**
 * Says of each id whether it has a job that has not failed, at one moment.
 * @throws QueueUnavailableError, also when the server cannot be trusted: it may lack jobs that another one has
 */
export type QueuedCheck = (ids: readonly string[]) => Promise<readonly boolean[]>;

export function createQueuedCheck({
  redis,
  queue,
  serverCheck,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  serverCheck: Pick<ServerCheck, 'fault'>;
}): QueuedCheck {
  const areQueuedPayments = defineScript<(0 | 1)[]>(redis, 'are-queued-payments', 1);
  return async (ids) => {
    if (ids.length === 0) return [];
    let replies: (0 | 1)[];
    try {
      replies = await areQueuedPayments(queueKey(queue, 'failed'), queueKey(queue, ''), ...ids);
    } catch (cause) {
      throw unavailable(explainRedisError(cause).detail, cause);
    }
    if (serverCheck.fault !== undefined) throw unavailable(serverCheck.fault.detail);
    return replies.map((isQueued) => isQueued === 1);
  };
}

/** Asks each shard for its own ids. @param checks one for each shard */
export function combineQueuedChecks(checks: readonly QueuedCheck[]): QueuedCheck {
  return (ids) => askShards(ids, checks.length, (shard, own) => checks[shard]!(own));
}

/** How long a shard may take to reply. The worker's connection would wait for a lost master. */
const REPLY_MS = 1_000;

/** The same, and undefined for the ids of a shard that does not say so, or not in time. Never rejects. */
export function combineKnownChecks(
  checks: readonly QueuedCheck[],
): (ids: readonly string[]) => Promise<readonly (boolean | undefined)[]> {
  return (ids) =>
    askShards<boolean | undefined>(ids, checks.length, async (shard, own) => {
      const asked = checks[shard]!(own).catch(() => undefined);
      return (await within(performance.now() + REPLY_MS, asked)) ?? own.map(() => undefined);
    });
}

function unavailable(why: string, cause?: unknown): QueueUnavailableError {
  return new QueueUnavailableError(`could not look payments up: ${why}`, { cause, retryAfterSeconds: 1 });
}
