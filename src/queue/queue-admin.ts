import type { Queue } from 'bullmq';
import type { RedisConfig } from '../config.ts';
import { QueueUnavailableError } from '../errors.ts';
import { jobKey, queueKey, unresolvedKey } from './bullmq-layout.ts';
import { createProducerConnection, firstConnection } from './redis.ts';
import { expectShards } from './shard-count.ts';
import { type PaymentQueues, shardOf } from './shards.ts';

/** BullMQ's own queue, as bull-board takes it. */
export type BullQueue = Queue;

/**
 * The queue as operators use it, which is rare: they look into it and empty it. BullMQ is loaded and a connection opened at
 * the first use, so that an API node that only accepts payments does not pay for them.
 */
export interface QueueAdmin {
  /** One for each shard. Ask `ping` before. @throws QueueUnavailableError */
  queues(): Promise<readonly Queue[]>;
  /** Resolves when Redis replies, and the relay has this number of shards. @throws QueueUnavailableError */
  ping(): Promise<void>;
  /** The ids of failed jobs of a shard, the oldest first. @throws QueueUnavailableError */
  failedIds(shard: number): Promise<readonly string[]>;
  /** Undefined when there is no failed job of this id. @throws QueueUnavailableError */
  failedJob(id: string): Promise<AdminJob | undefined>;
  /** Empties every shard, whatever state its jobs are in. @throws QueueUnavailableError */
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

export function createQueueAdmin(config: RedisConfig, paymentQueues: PaymentQueues): QueueAdmin {
  const { shards } = paymentQueues;
  let opened: { queues: Promise<readonly Queue[]>; redis: ReturnType<typeof createProducerConnection> } | undefined;

  function open() {
    const redis = createProducerConnection(config);
    // A lost connection fails the commands. Without a listener its event would end the process.
    redis.on('error', () => {});
    const queues = Promise.all([import('bullmq'), firstConnection(redis)]).then(([{ Queue }]) =>
      shards.map(({ name, prefix }) => {
        const queue = new Queue(name, {
          connection: redis,
          prefix,
          // Without these three it neither fails fast nor recovers when Redis was down at the start (seen with BullMQ 6.7).
          skipVersionCheck: true,
          skipWaitingForReady: true,
          skipMetasUpdate: true,
        });
        queue.on('error', () => {});
        return queue;
      }),
    );
    return { queues, redis };
  }

  /** Runs a command when the first connection was made or has failed, and never on the shards of another number. */
  async function ask<T>(command: (redis: ReturnType<typeof createProducerConnection>) => Promise<T>): Promise<T> {
    try {
      opened ??= open();
      await opened.queues;
      await expectShards(opened.redis, paymentQueues);
      return await command(opened.redis);
    } catch (cause) {
      if (cause instanceof QueueUnavailableError) throw cause;
      throw new QueueUnavailableError('could not read the queue', { cause, retryAfterSeconds: 1 });
    }
  }

  return {
    queues() {
      opened ??= open();
      return opened.queues;
    },
    async ping() {
      // It reads the number.
      await ask(async () => {});
    },
    failedIds: (shard) => ask((redis) => redis.zrange(queueKey(shards[shard]!, 'failed'), 0, -1)),
    failedJob: (id) =>
      ask(async (redis) => {
        const queue = shards[shardOf(id, shards.length)]!;
        if ((await redis.zscore(queueKey(queue, 'failed'), id)) === null) return undefined;
        const [data, timestamp] = await redis.hmget(jobKey(queue, id), 'data', 'timestamp');
        return { id, data: data ?? undefined, acceptedAt: new Date(Number(timestamp ?? 0)) };
      }),
    async purge() {
      try {
        for (const [index, queue] of (await this.queues()).entries()) {
          await queue.obliterate({ force: true });
          // Ours, not BullMQ's.
          const shard = shards[index]!;
          await opened?.redis.del(unresolvedKey(shard, 'primary'), unresolvedKey(shard, 'fallback'));
        }
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
