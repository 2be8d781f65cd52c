import type { Cluster, Redis } from 'ioredis';
import { type PaymentQueueName, queueKey } from '../../src/queue/bullmq-layout.ts';
import { readShard, type Shard } from '../../src/queue/read-shard.ts';

type Counts = Pick<Shard, 'size' | 'inFlight'>;

/** Counts the payments of a queue now. */
export async function countPayments(redis: Redis | Cluster, queue: PaymentQueueName): Promise<Counts> {
  const { size, inFlight } = await readShard(redis, queue);
  return { size, inFlight };
}

/** The payments of all shards. A payment never leaves its shard, so the counts need not be of one moment. */
export async function countShards(redis: Redis | Cluster, shards: readonly PaymentQueueName[]): Promise<Counts> {
  const counts = await Promise.all(shards.map((shard) => countPayments(redis, shard)));
  const sum = (count: keyof Counts) => counts.reduce((total, each) => total + each[count], 0);
  return { size: sum('size'), inFlight: sum('inFlight') };
}

/** The ids of the failed jobs of all shards. */
export async function failedIn(redis: Redis | Cluster, shards: readonly PaymentQueueName[]): Promise<string[]> {
  return (await Promise.all(shards.map((shard) => redis.zrange(queueKey(shard, 'failed'), 0, -1)))).flat();
}
