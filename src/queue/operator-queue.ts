import type { Config } from '../config.ts';
import { within } from '../process/deadline.ts';
import type { Logger } from '../process/logger.ts';
import { combineEnqueuers, createEnqueuer, type Enqueuer } from './enqueuer.ts';
import { mayBeReplaced } from './epoch.ts';
import { createProducerShards } from './producer-shards.ts';
import { combineQueuedChecks, createQueuedCheck, type QueuedCheck } from './queued-check.ts';
import { createProducerConnection, firstConnection } from './redis.ts';
import { capOfShard, paymentQueues } from './shards.ts';

/** The queue for an action of operators. It has its own connection, so that an action does not delay payments. */
export interface OperatorQueue {
  readonly enqueueAgain: Enqueuer['enqueueAgain'];
  readonly areQueued: QueuedCheck;
  close(): void;
}

/**
 * The share of the cap that retried dead letters may fill. The rest is for payments of clients, who would get `queue_full`
 * otherwise.
 */
const RETRY_SHARE = 0.9;

/** How long the first check of Redis may take. After it, commands fail until the check has ended. */
const FIRST_CHECK_MS = 1_000;

/**
 * Opens a connection as an API node has it: commands fail while Redis is down, nothing is written to a server that an API
 * node would not use, and the memory for the workers stays free. Resolves also while Redis is down.
 */
export async function openOperatorQueue(
  config: Pick<Config, 'redis' | 'queue'>,
  logger: Logger,
): Promise<OperatorQueue> {
  const { redis: redisConfig, queue: queueConfig } = config;
  const queues = paymentQueues(queueConfig);
  const redis = createProducerConnection(redisConfig);
  // A lost connection fails the commands. Without a listener its event would end the process.
  redis.on('error', () => {});
  const shards = createProducerShards(config, { redis, queues, logger });
  const maxSize = Math.max(1, Math.floor(RETRY_SHARE * capOfShard(queueConfig)));
  const { enqueueAgain } = combineEnqueuers(
    shards.each.map((shard) =>
      createEnqueuer({ ...shard, maxSize, shards: queueConfig.shards, notesTime: mayBeReplaced(config) }),
    ),
  );
  await firstConnection(redis);
  if (redis.status === 'ready') await within(performance.now() + FIRST_CHECK_MS, shards.check.whenUsable());
  return {
    enqueueAgain,
    areQueued: combineQueuedChecks(shards.each.map(createQueuedCheck)),
    close() {
      shards.close();
      redis.disconnect();
    },
  };
}
