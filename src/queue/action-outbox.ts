import type { Cluster, Redis } from 'ioredis';
import { QueueUnavailableError } from '../errors.ts';
import { outboxKey, type PaymentQueueName } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';

/**
 * Rows of the operators' trail that wait for PostgreSQL, as texts in Redis. All functions throw QueueUnavailableError; what
 * they change may have been changed then, and changing it again does no harm.
 *
 * A sorted set and not a list: it needs no right that an API node does not need for payments.
 */
export interface ActionOutbox {
  add(text: string, at: Date): Promise<void>;
  /** The oldest first. @param skip how many of the oldest to pass over */
  read(skip: number, count: number): Promise<readonly string[]>;
  remove(text: string): Promise<void>;
}

export function createActionOutbox({
  redis,
  queue,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
}): ActionOutbox {
  const key = outboxKey(queue);

  async function ask<T>(command: () => Promise<T>): Promise<T> {
    try {
      return await command();
    } catch (cause) {
      const { detail } = explainRedisError(cause);
      throw new QueueUnavailableError(`no access to late rows of the trail: ${detail}`, {
        cause,
        retryAfterSeconds: 1,
      });
    }
  }

  return {
    async add(text, at) {
      await ask(() => redis.zadd(key, at.getTime(), text));
    },
    read: (skip, count) => ask(() => redis.zrange(key, skip, skip + count - 1)),
    async remove(text) {
      await ask(() => redis.zrem(key, text));
    },
  };
}
