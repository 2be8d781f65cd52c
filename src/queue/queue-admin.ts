import type { Queue } from 'bullmq';
import type { RedisConfig } from '../config.ts';
import { QueueUnavailableError } from '../errors.ts';
import { createProducerConnection, firstConnection, type PaymentQueueName } from './payment-queue.ts';

/**
 * The queue for the rare jobs of an operator: looking at it and emptying it. BullMQ is loaded, and a connection opened,
 * only when it is first asked for, so that an API node that only accepts payments pays nothing for it.
 */
export interface QueueAdmin {
  /** @throws QueueUnavailableError */
  queue(): Promise<Queue>;
  /** Resolves when Redis answers. @throws QueueUnavailableError */
  ping(): Promise<void>;
  /** Empties the queue, whatever state its jobs are in. @throws QueueUnavailableError */
  purge(): Promise<void>;
  close(): Promise<void>;
}

export function createQueueAdmin(config: RedisConfig, { name, prefix }: PaymentQueueName): QueueAdmin {
  let opened: { queue: Promise<Queue>; redis: ReturnType<typeof createProducerConnection> } | undefined;

  function open() {
    const redis = createProducerConnection(config);
    // Failed commands tell of a lost connection; without a listener the event would end the process.
    redis.on('error', () => {});
    const queue = Promise.all([import('bullmq'), firstConnection(redis)]).then(([{ Queue }]) => {
      const created = new Queue(name, {
        connection: redis,
        prefix,
        // Without these three it neither fails fast nor recovers when Redis was away at the start (seen with BullMQ 6.7).
        skipVersionCheck: true,
        skipWaitingForReady: true,
        skipMetasUpdate: true,
      });
      created.on('error', () => {});
      return created;
    });
    return { queue, redis };
  }

  return {
    queue() {
      opened ??= open();
      return opened.queue;
    },
    async ping() {
      try {
        await this.queue();
        await opened?.redis.ping();
      } catch (cause) {
        throw new QueueUnavailableError('the queue cannot be looked at', { cause, retryAfterSeconds: 1 });
      }
    },
    async purge() {
      try {
        await (await this.queue()).obliterate({ force: true });
      } catch (cause) {
        throw new QueueUnavailableError('could not empty the queue', { cause, retryAfterSeconds: 1 });
      }
    },
    async close() {
      opened?.redis.disconnect();
      opened = undefined;
    },
  };
}
