import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster, Redis } from 'ioredis';
import type { Config } from '../config.ts';
import { ConflictError, QueueUnavailableError } from '../errors.ts';
import { type PaymentQueueName, shardsKey } from './bullmq-layout.ts';
import { countPayments, type QueueCounts } from './payment-queue.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineWrite, writerFor } from './replicated-writer.ts';
import { CLOSED, countOf } from './shard-count.ts';
import { paymentQueues } from './shards.ts';

/** The shards of a relay, whatever QUEUE_SHARDS says. */
export interface Shards {
  /** @throws QueueUnavailableError */
  read(): Promise<readonly Shard[]>;
  /**
   * Changes their number while processes run. What may go wrong leaves every payment where its workers find it:
   *
   * | step                                   | clients get | after a failure here                                     |
   * |----------------------------------------|-------------|----------------------------------------------------------|
   * | every old shard is closed              | 503         | the old ones are opened again, now or by another call    |
   * | the workers drain them until all are empty | 503     | the same                                                 |
   * | the home gets the new number           | 503         | old processes are not ready; those of the new number are |
   * | the new shards get it                  | 204         | another call opens those that lack it                    |
   *
   * Without a change it opens the shards, which ends a change that was interrupted.
   * @param onLeft is called again and again while payments are left
   * @param signal ends the wait
   * @throws QueueUnavailableError; ConflictError when another change was faster
   */
  change(to: number, wait: { onLeft: (left: QueueCounts) => void; signal: AbortSignal }): Promise<void>;
}

export interface Shard extends QueueCounts {
  readonly queue: PaymentQueueName;
  readonly isClosed: boolean;
}

const LOOK_EVERY_MS = 500;

/** A write that fails may succeed at once on another connection, after a failover for one. */
const TRIES = 5;
const RETRY_MS = 300;

export function createShards(config: Pick<Config, 'redis' | 'queue'>, redis: Redis | Cluster): Shards {
  const { name, prefix } = config.queue;
  const shardsOf = (count: number) => paymentQueues({ name, prefix, shards: count }).shards;
  const { home } = paymentQueues({ name, prefix, shards: 1 });

  async function ask<T>(command: () => Promise<T>): Promise<T> {
    try {
      return await command();
    } catch (cause) {
      if (cause instanceof ConflictError) throw cause;
      const { detail } = explainRedisError(cause);
      throw new QueueUnavailableError(`the number of shards: ${detail}`, { cause, retryAfterSeconds: 1 });
    }
  }

  /** A relay whose number nobody has written has one. */
  const count = () => ask(async () => countOf((await redis.get(shardsKey(home))) ?? '1'));

  const look = (shards: readonly PaymentQueueName[]) =>
    ask(() =>
      Promise.all(
        shards.map(async (queue): Promise<Shard> => {
          const isClosed = (await redis.get(shardsKey(queue))) === CLOSED;
          return { queue, isClosed, ...(await countPayments(redis, queue)) };
        }),
      ),
    );

  /** @param over what it may replace; everything by default. @throws ConflictError when something else is there */
  async function write(queue: PaymentQueueName, value: string, over: readonly string[] = []): Promise<void> {
    const writer = writerFor(config, redis, queue);
    const setShards = defineWrite<0 | 1>({ redis, writer }, 'set-shards', 1);
    try {
      for (let tries = 1; ; tries += 1) {
        try {
          // A write that was not confirmed may be there: it may replace itself.
          const isWritten = await setShards(shardsKey(queue), value, ...over, ...(over.length > 0 ? [value] : []));
          if (isWritten === 0) throw new ConflictError('the number of shards was changed meanwhile by another command');
          return;
        } catch (error) {
          if (error instanceof ConflictError || tries === TRIES) throw error;
          await sleep(RETRY_MS);
        }
      }
    } finally {
      writer?.close();
    }
  }

  /** The home's number decides, so nothing is written over one that another command has changed. */
  const overOf = (from: number) => (from === 1 ? ['', '1', CLOSED] : [String(from)]);
  const writeAll = (from: number, shards: readonly PaymentQueueName[], value: string) =>
    Promise.all(shards.map((shard) => write(shard, value, shard.prefix === home.prefix ? overOf(from) : undefined)));

  async function untilEmpty(
    queues: readonly PaymentQueueName[],
    { onLeft, signal }: Parameters<Shards['change']>[1],
  ): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      const shards = await look(queues);
      const left = {
        size: shards.reduce((sum, { size }) => sum + size, 0),
        inFlight: shards.reduce((sum, { inFlight }) => sum + inFlight, 0),
      };
      if (left.size + left.inFlight === 0) return;
      onLeft(left);
      await sleep(LOOK_EVERY_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  return {
    read: async () => look(shardsOf(await count())),
    async change(to, wait) {
      const from = await count();
      const open = (shards: readonly PaymentQueueName[], number: number) =>
        ask(() => writeAll(number, shards, String(number)));
      if (from !== to) {
        try {
          await ask(() => writeAll(from, shardsOf(from), CLOSED));
          await untilEmpty(shardsOf(from), wait);
        } catch (error) {
          if (!(error instanceof ConflictError)) await open(shardsOf(from), from);
          throw error;
        }
        await ask(() => write(home, String(to), from === 1 ? [CLOSED] : [String(from)]));
      }
      await open(shardsOf(to), to);
    },
  };
}
