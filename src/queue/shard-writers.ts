import type { Cluster, Redis } from 'ioredis';
import type { Config } from '../config.ts';
import { type ReplicatedWriter, writerFor } from './replicated-writer.ts';
import type { PaymentQueues } from './shards.ts';

/** The writers of a process, where `DURABILITY` asks for any. A shard whose master does not respond delays no other. */
export interface ShardWriters {
  readonly home: ReplicatedWriter | undefined;
  readonly shards: readonly (ReplicatedWriter | undefined)[];
  close(): void;
}

/** @param redis the connection that the process uses otherwise */
export function createShardWriters(
  config: Pick<Config, 'redis' | 'queue'>,
  redis: Redis | Cluster,
  { home, shards }: PaymentQueues,
): ShardWriters {
  const ofHome = writerFor(config, redis, home);
  const ofShards = shards.map((shard) => (shard === home ? ofHome : writerFor(config, redis, shard)));
  return {
    home: ofHome,
    shards: ofShards,
    close() {
      for (const writer of new Set([ofHome, ...ofShards])) writer?.close();
    },
  };
}
