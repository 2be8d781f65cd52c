import type { Cluster, Redis } from 'ioredis';
import type { Config } from '../config.ts';
import { type PaymentQueueName, queueKey } from './bullmq-layout.ts';
import { readScript } from './scripts.ts';

/** The prefix of all our keys in Redis unless `REDIS_KEY_PREFIX` is set. */
export const QUEUE_PREFIX = '{payrelay}';

/** The queue of the payments. Without a prefix it is the one of the default settings. */
export function paymentQueue({
  name,
  prefix = QUEUE_PREFIX,
}: Pick<Config['queue'], 'name'> & Partial<Pick<Config['queue'], 'prefix'>>): PaymentQueueName {
  return { name, prefix };
}

/** The name every payment's job carries in the dashboard. */
export const JOB_NAME = 'payment';

/**
 * Options stored with every job.
 * - `attempts`: a fault must never end a payment, so there is no practical limit.
 * - `backoff`: the worker's own strategy decides (job-ends.ts).
 * - `stackTraceLimit`: by default the stack of every failure piles up in the job.
 */
export const JOB_OPTIONS = { attempts: 1_000_000_000, backoff: { type: 'requeue' }, stackTraceLimit: 1 } as const;

/** The payments of a queue. */
export interface QueueCounts {
  /** Waiting, delayed and prioritized jobs, which the cap counts, and those that an older BullMQ has kept in a list of its own. */
  readonly size: number;
  /** Jobs that a worker has taken. */
  readonly inFlight: number;
}

const COUNT_SCRIPT = readScript('count-payments');

/** Counts the payments of the queue now. @throws an Error when Redis does not reply */
export async function countPayments(redis: Redis | Cluster, queue: PaymentQueueName): Promise<QueueCounts> {
  const keys = ['wait', 'delayed', 'prioritized', 'paused', 'active'].map((type) => queueKey(queue, type));
  const [size, inFlight] = (await redis.eval(COUNT_SCRIPT, keys.length, ...keys)) as [number, number];
  return { size, inFlight };
}
