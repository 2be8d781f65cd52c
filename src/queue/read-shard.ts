import type { Cluster, Redis } from 'ioredis';
import { type PaymentQueueName, queueKey, shardsKey } from './bullmq-layout.ts';
import { readScript } from './scripts.ts';

/** A shard at one moment. */
export interface Shard {
  readonly queue: PaymentQueueName;
  /** The number of shards that is written at it, or the mark that closes it (shard-count.ts). '' when nothing is. */
  readonly mark: string;
  /** Waiting, delayed and prioritized jobs, which the cap counts, and those that an older BullMQ has kept in a list of its own. */
  readonly size: number;
  /** Jobs that a worker has taken. */
  readonly inFlight: number;
  /** Failed jobs, which Redis keeps for the dashboard. */
  readonly failed: number;
  readonly isPaused: boolean;
}

const SCRIPT = readScript('read-shard');

/** @throws an Error when Redis does not reply */
export async function readShard(redis: Redis | Cluster, queue: PaymentQueueName): Promise<Shard> {
  const lists = ['wait', 'delayed', 'prioritized', 'paused', 'active', 'failed', 'meta'];
  const keys = [shardsKey(queue), ...lists.map((type) => queueKey(queue, type))];
  const reply = (await redis.eval(SCRIPT, keys.length, ...keys)) as [string, number, number, number, 0 | 1];
  const [mark, size, inFlight, failed, paused] = reply;
  return { queue, mark: String(mark), size, inFlight, failed, isPaused: paused === 1 };
}
