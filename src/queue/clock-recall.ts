import type { Cluster, Redis } from 'ioredis';
import type { Logger } from '../process/logger.ts';
import type { OutageLog } from '../process/outage-log.ts';
import { type PaymentQueueName, queueKey } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineScript } from './scripts.ts';

const INTERVAL_MS = 2_000;

/** How far the clock of another worker may be ahead before its pauses are shortened. */
const CLOCK_SLACK_MS = 1_000;

/**
 * Shortens, every two seconds, each delay that exceeds the job's pause: the clock of the worker that set it was wrong. BullMQ
 * computes delays with the clocks of its workers. It also removes payments that have left the queue from the unresolved
 * ones.
 * @param usualPauseMs the longest pause of a job that has no `pause` of its own
 */
export function startClockRecall({
  redis,
  queue,
  usualPauseMs,
  outage,
  logger,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  usualPauseMs: number;
  outage: OutageLog;
  logger: Logger;
}): { close(): void } {
  const recallPayments = defineScript<number>(redis, 'recall-payments', 3);
  const keys = ['delayed', 'marker', 'unresolved'].map((type) => queueKey(queue, type));
  const prefix = queueKey(queue, '');

  /** Never rejects. */
  async function recall(): Promise<void> {
    // While Redis is down the command would wait for the connection, and so would one more every two seconds.
    if (redis.status !== 'ready') return;
    try {
      const count = await recallPayments(...keys, Date.now(), usualPauseMs, CLOCK_SLACK_MS, prefix);
      if (count > 0) logger.warn('shortened pauses that came from a wrong clock', { count });
    } catch (error) {
      outage.failed(explainRedisError(error));
    }
  }

  const timer = setInterval(() => void recall(), INTERVAL_MS);
  return { close: () => clearInterval(timer) };
}
