import type { Config } from '../config.ts';
import type { PaymentQueueName } from './bullmq-layout.ts';

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
