import type { Cluster, Redis } from 'ioredis';
import type { Logger } from '../process/logger.ts';
import type { OutageLog } from '../process/outage-log.ts';
import { type PaymentQueueName, queueKey, unresolvedKey } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineScript } from './scripts.ts';

const INTERVAL_MS = 2_000;

/** How far the clock of another worker may be ahead before its pauses are shortened. */
const CLOCK_SLACK_MS = 1_000;

/**
 * Shortens, every two seconds, each delay that exceeds the job's pause: the clock of the worker that set it was wrong. BullMQ
 * computes delays with the clocks of its workers. It also keeps the lists of unresolved payments true: removes those that
 * have left the queue, and moves those that an earlier version has listed under the wrong gateway.
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
  const recallPayments = defineScript<number>(redis, 'recall-payments', 4);
  const keys = [
    queueKey(queue, 'delayed'),
    queueKey(queue, 'marker'),
    unresolvedKey(queue, 'primary'),
    unresolvedKey(queue, 'fallback'),
  ];
  const prefix = queueKey(queue, '');
  let isUnderWay = false;

  /** Never rejects. */
  async function recall(): Promise<void> {
    // While Redis is down the command would wait for the connection, and so would one more every two seconds. A cluster is
    // connected also while the server of this queue is down.
    if (redis.status !== 'ready' || isUnderWay) return;
    isUnderWay = true;
    try {
      const count = await recallPayments(...keys, Date.now(), usualPauseMs, CLOCK_SLACK_MS, prefix);
      if (count > 0) logger.warn('shortened pauses that came from a wrong clock', { count });
    } catch (error) {
      outage.failed(explainRedisError(error));
    } finally {
      isUnderWay = false;
    }
  }

  const timer = setInterval(() => void recall(), INTERVAL_MS);
  return { close: () => clearInterval(timer) };
}
