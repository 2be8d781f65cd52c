import type { Queue } from 'bullmq';
import type { RedisConfig } from '../config.ts';
import { QueueUnavailableError } from '../errors.ts';
import { jobKey, type PaymentQueueName, queueKey, unresolvedKey } from './bullmq-layout.ts';
import { createProducerConnection, firstConnection } from './redis.ts';

/** BullMQ's own queue, as bull-board takes it. */
export type BullQueue = Queue;

/**
 * The queue as operators use it, which is rare: they look into it and empty it. BullMQ is loaded and a connection opened at
 * the first use, so that an API node that only accepts payments does not pay for them.
 */
export interface QueueAdmin {
  /** @throws QueueUnavailableError */
  queue(): Promise<Queue>;
  /** Resolves when Redis replies. @throws QueueUnavailableError */
  ping(): Promise<void>;
  /** The ids of failed jobs, the oldest first. @throws QueueUnavailableError */
  failedIds(): Promise<readonly string[]>;
  /** Undefined when there is no failed job of this id. @throws QueueUnavailableError */
  failedJob(id: string): Promise<AdminJob | undefined>;
  /** Empties the queue, whatever state its jobs are in. @throws QueueUnavailableError */
  purge(): Promise<void>;
  close(): Promise<void>;
}

/** The payment of a failed job. */
export interface AdminJob {
  readonly id: string;
  /** JSON text, shortened if it was long; undefined when the job has lost it. */
  readonly data: string | undefined;
  readonly acceptedAt: Date;
}

export function createQueueAdmin(config: RedisConfig, queueName: PaymentQueueName): QueueAdmin {
  const { name, prefix } = queueName;
  const failedKey = queueKey(queueName, 'failed');
  let opened: { queue: Promise<Queue>; redis: ReturnType<typeof createProducerConnection> } | undefined;

  function open() {
    const redis = createProducerConnection(config);
    // A lost connection fails the commands. Without a listener its event would end the process.
    redis.on('error', () => {});
    const queue = Promise.all([import('bullmq'), firstConnection(redis)]).then(([{ Queue }]) => {
      const created = new Queue(name, {
        connection: redis,
        prefix,
        // Without these three it neither fails fast nor recovers when Redis was down at the start (seen with BullMQ 6.7).
        skipVersionCheck: true,
        skipWaitingForReady: true,
        skipMetasUpdate: true,
      });
      created.on('error', () => {});
      return created;
    });
    return { queue, redis };
  }

  /** Runs a command when the first connection was made or has failed. */
  async function ask<T>(command: (redis: ReturnType<typeof createProducerConnection>) => Promise<T>): Promise<T> {
    try {
      opened ??= open();
      await opened.queue;
      return await command(opened.redis);
    } catch (cause) {
      throw new QueueUnavailableError('could not read the queue', { cause, retryAfterSeconds: 1 });
    }
  }

  return {
    queue() {
      opened ??= open();
      return opened.queue;
    },
    async ping() {
      await ask((redis) => redis.ping());
    },
    failedIds: () => ask((redis) => redis.zrange(failedKey, 0, -1)),
    failedJob: (id) =>
      ask(async (redis) => {
        if ((await redis.zscore(failedKey, id)) === null) return undefined;
        const [data, timestamp] = await redis.hmget(jobKey(queueName, id), 'data', 'timestamp');
        return { id, data: data ?? undefined, acceptedAt: new Date(Number(timestamp ?? 0)) };
      }),
    async purge() {
      try {
        await (await this.queue()).obliterate({ force: true });
        // Ours, not BullMQ's.
        await opened?.redis.del(unresolvedKey(queueName, 'primary'), unresolvedKey(queueName, 'fallback'));
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
