import type { Cluster, Redis } from 'ioredis';
import type { Config } from '../config.ts';
import type { Logger } from '../process/logger.ts';
import type { PaymentQueueName } from './bullmq-layout.ts';
import type { RedisCheck } from './redis-check.ts';
import type { ReplicatedWriter } from './replicated-writer.ts';
import { createShardChecks } from './shard-checks.ts';
import { createShardWriters } from './shard-writers.ts';
import type { PaymentQueues } from './shards.ts';

/** The shards as a process uses them that puts payments into them: an API node, or an action of operators. */
export interface ProducerShards {
  readonly each: readonly ProducerShard[];
  /** Usable while one of the shards is. */
  readonly check: RedisCheck;
  /** Of the home, where `DURABILITY` asks for one. */
  readonly homeWriter: ReplicatedWriter | undefined;
  /** Not the connection. */
  close(): void;
}

export interface ProducerShard {
  readonly redis: Redis | Cluster;
  readonly queue: PaymentQueueName;
  readonly serverCheck: RedisCheck;
  /** Where `DURABILITY` asks for one. */
  readonly writer: ReplicatedWriter | undefined;
}

/** @param redis the connection that all of them share; a writer has one of its own besides */
export function createProducerShards(
  config: Pick<Config, 'redis' | 'queue'>,
  { redis, queues, logger }: { redis: Redis | Cluster; queues: PaymentQueues; logger: Logger },
): ProducerShards {
  const { durability } = config.queue;
  const checks = createShardChecks({ redis, queues, durability, role: 'api', logger });
  const writers = createShardWriters(config, redis, queues);
  return {
    each: queues.shards.map((queue, index) => ({
      ...{ redis, queue },
      serverCheck: checks.shards[index]!,
      writer: writers.shards[index],
    })),
    check: checks.all,
    homeWriter: writers.home,
    close() {
      checks.all.close();
      writers.close();
    },
  };
}
