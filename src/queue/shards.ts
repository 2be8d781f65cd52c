import { crc32 } from 'node:zlib';
import calculateSlot from 'cluster-key-slot';
import type { Config } from '../config.ts';
import type { PaymentQueueName } from './bullmq-layout.ts';
import { paymentQueue } from './payment-queue.ts';

/**
 * The queues of a relay. One queue ends where one core of Redis ends, so `QUEUE_SHARDS` splits the payments over several, by
 * correlationId. With one shard that is the home itself, under the same keys.
 */
export interface PaymentQueues {
  /** Has what is not of one payment: heartbeats, operators' decisions, the number of shards. */
  readonly home: PaymentQueueName;
  /** Have the payments. */
  readonly shards: readonly PaymentQueueName[];
}

/** How the queues of a relay with these settings are named. */
export function paymentQueues({
  name,
  prefix,
  shards,
}: Pick<Config['queue'], 'name' | 'shards'> & Partial<Pick<Config['queue'], 'prefix'>>): PaymentQueues {
  const home = paymentQueue({ name, ...(prefix !== undefined && { prefix }) });
  if (shards === 1) return { home, shards: [home] };
  return {
    home,
    shards: Array.from({ length: shards }, (_, index) => ({ name, prefix: shardPrefix(home.prefix, index, shards) })),
  };
}

/**
 * The shard of a payment.
 * @param id the normal form of its correlationId. Without one it belongs to the first shard, where BullMQ gives its job a number
 * @param count how many there are
 */
export function shardOf(id: string | undefined, count: number): number {
  return count === 1 || id?.length !== UUID_LENGTH ? 0 : crc32(id) % count;
}

const UUID_LENGTH = 36;

/** The cap of each shard. Their sum is the cap of the relay: what does not divide is left out. */
export function capOfShard({ maxSize, shards }: Pick<Config['queue'], 'maxSize' | 'shards'>): number {
  return Math.floor(maxSize / shards);
}

/** How many payments may wait in all shards together. */
export function capacityOf(queue: Pick<Config['queue'], 'maxSize' | 'shards'>): number {
  return capOfShard(queue) * queue.shards;
}

/**
 * Asks each shard for those of these ids that it may have. Puts the results in the order of the ids.
 * @param ask gets at least one id
 */
export async function askShards<T>(
  ids: readonly string[],
  count: number,
  ask: (shard: number, ids: readonly string[]) => Promise<readonly T[]>,
): Promise<T[]> {
  const places = Map.groupBy(ids.keys(), (place) => shardOf(ids[place], count));
  const results: T[] = [];
  await Promise.all(
    [...places].map(async ([shard, own]) => {
      const replies = await ask(
        shard,
        own.map((place) => ids[place]!),
      );
      for (const [index, place] of own.entries()) results[place] = replies[index]!;
    }),
  );
  return results;
}

/** Slots of a Redis Cluster. */
const SLOTS = 16_384;

/**
 * `{payrelay.2.7}` is the third shard. The last number is the smallest with which the keys of the i-th of N shards are in the
 * i-th N-th of a cluster's slots. A cluster whose masters have equal parts of the slots has equal parts of the shards then.
 * @param home in braces
 */
function shardPrefix(home: string, index: number, count: number): string {
  const first = Math.floor((SLOTS * index) / count);
  const end = Math.floor((SLOTS * (index + 1)) / count);
  for (let number = 0; ; number += 1) {
    const prefix = `${home.slice(0, -1)}.${index}.${number}}`;
    const slot = calculateSlot(prefix);
    if (slot >= first && slot < end) return prefix;
  }
}
