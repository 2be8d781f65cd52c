import type { Cluster, Redis } from 'ioredis';
import { QueueUnavailableError } from '../errors.ts';
import type { GatewayName } from '../payment.ts';
import { bindingText, jobKey, lockKey, type PaymentQueueName, queueKey, unresolvedKey } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineWrite, type ReplicatedWriter } from './replicated-writer.ts';
import { shardOf } from './shards.ts';

/**
 * - `done`
 * - `in_flight`: a worker has the payment, or had it and its lock has expired.
 * - `changed`: a run has started, or the job has left the queue, since the caller read it.
 * In the last two cases nothing was written.
 */
export type WaitingJobResult = 'done' | 'in_flight' | 'changed';

/** A job as the caller has read it. With the same number of runs no run has started since. */
export interface ReadJob {
  readonly id: string;
  /** Runs started. */
  readonly attempts: number;
}

/** What an operator may do with a payment that waits in the queue. Each is one script, so no run can start meanwhile. */
export interface WaitingJobs {
  /**
   * Frees the payment from the one gateway that may get it. It is due after `delayMs`. Works for a failed job, too: a later post
   * of its id inherits nothing.
   * @throws QueueUnavailableError after which it may be free
   */
  release(job: ReadJob, release: { gateway: GatewayName; by: string; delayMs: number }): Promise<WaitingJobResult>;
  /** Removes the job. @throws QueueUnavailableError after which it may be removed */
  end(job: ReadJob): Promise<WaitingJobResult>;
  /** Binds the payment to this gateway. @throws QueueUnavailableError after which it may be bound */
  tie(job: ReadJob, gateway: GatewayName): Promise<WaitingJobResult>;
  /**
   * A page of the payments that only this gateway may get, ordered by the time when that was first noted.
   * @throws QueueUnavailableError
   */
  unresolved(gateway: GatewayName, page: UnresolvedPage): Promise<readonly Unresolved[]>;
}

export interface UnresolvedPage {
  readonly offset: number;
  readonly limit: number;
  /** Noted at this time or earlier, in ms of Redis' clock. */
  readonly notedBeforeMs: number;
}

export interface Unresolved {
  readonly id: string;
  readonly since: Date;
}

/** @param writer with `DURABILITY=replica`: a failover must not take back what an operator has decided */
export function createWaitingJobs({
  redis,
  queue,
  writer,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  writer?: ReplicatedWriter | undefined;
}): WaitingJobs {
  const releasePayment = defineWrite<WaitingJobResult>({ redis, writer }, 'release-payment', 8);
  const endPayment = defineWrite<WaitingJobResult>({ redis, writer }, 'end-payment', 8);
  const tiePayment = defineWrite<WaitingJobResult>({ redis, writer }, 'tie-payment', 3);
  const [active, failed, wait, delayed, marker] = ['active', 'failed', 'wait', 'delayed', 'marker'].map((type) =>
    queueKey(queue, type),
  ) as [string, string, string, string, string];
  const unresolved = [unresolvedKey(queue, 'primary'), unresolvedKey(queue, 'fallback')];
  const keysOf = ({ id }: ReadJob) => [jobKey(queue, id), lockKey(jobKey(queue, id)), active];
  /** As Redis has it: nothing before the first run. */
  const runsOf = ({ attempts }: ReadJob) => (attempts === 0 ? '' : attempts);

  async function ask<T>(command: Promise<T>): Promise<T> {
    try {
      return await command;
    } catch (cause) {
      const { detail } = explainRedisError(cause);
      throw new QueueUnavailableError(`a payment could not be changed: ${detail}`, { cause, retryAfterSeconds: 1 });
    }
  }

  return {
    release: (job, { gateway, by, delayMs }) =>
      ask(
        releasePayment(
          ...keysOf(job),
          failed,
          delayed,
          marker,
          ...unresolved,
          job.id,
          runsOf(job),
          gateway,
          by,
          Math.round(delayMs),
        ),
      ),
    end: (job) => ask(endPayment(...keysOf(job), failed, wait, delayed, ...unresolved, job.id, runsOf(job))),
    tie: (job, gateway) => ask(tiePayment(...keysOf(job), job.id, runsOf(job), bindingText(gateway))),
    async unresolved(gateway, { offset, limit, notedBeforeMs }) {
      const key = unresolvedKey(queue, gateway);
      const found = await ask(
        redis.zrangebyscore(key, '-inf', Math.floor(notedBeforeMs), 'WITHSCORES', 'LIMIT', offset, limit),
      );
      return found.flatMap((id, index) => (index % 2 === 0 ? [{ id, since: new Date(Number(found[index + 1])) }] : []));
    },
  };
}

/**
 * Changes each payment in its shard. A page is of all shards: without one of them it would skip payments, so it fails.
 * @param parts one for each shard
 */
export function combineWaitingJobs(parts: readonly WaitingJobs[]): WaitingJobs {
  const [only] = parts;
  if (parts.length === 1) return only!;
  const of = ({ id }: ReadJob) => parts[shardOf(id, parts.length)]!;
  return {
    release: (job, release) => of(job).release(job, release),
    end: (job) => of(job).end(job),
    tie: (job, gateway) => of(job).tie(job, gateway),
    async unresolved(gateway, { offset, limit, notedBeforeMs }) {
      // All before the end of the page may be in one shard.
      const page = { offset: 0, limit: offset + limit, notedBeforeMs };
      const listed = (await Promise.all(parts.map((part) => part.unresolved(gateway, page)))).flat();
      return listed.toSorted(byTimeAndId).slice(offset, offset + limit);
    },
  };
}

/** Redis orders payments of the same time by id. */
function byTimeAndId(a: Unresolved, b: Unresolved): number {
  return a.since.getTime() - b.since.getTime() || (a.id < b.id ? -1 : 1);
}
