import type { Config } from '../config.ts';
import { within } from '../process/deadline.ts';
import type { Logger } from '../process/logger.ts';
import { createEnqueuer, type Enqueuer } from './enqueuer.ts';
import { mayBeReplaced } from './epoch.ts';
import { paymentQueue } from './payment-queue.ts';
import { createQueuedCheck, type QueuedCheck } from './queued-check.ts';
import { createProducerConnection, firstConnection } from './redis.ts';
import { writerFor } from './replicated-writer.ts';
import { createServerCheck } from './server-check.ts';

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
  const queue = paymentQueue(queueConfig);
  const redis = createProducerConnection(redisConfig);
  // A lost connection fails the commands. Without a listener its event would end the process.
  redis.on('error', () => {});
  const serverCheck = createServerCheck({
    ...{ redis, queues: [queue], durability: queueConfig.durability, logger },
    role: 'api',
  });
  const writer = writerFor(config, redis, queue);
  const maxSize = Math.max(1, Math.floor(RETRY_SHARE * queueConfig.maxSize));
  const { enqueueAgain } = createEnqueuer({
    ...{ redis, queue, maxSize, serverCheck, writer },
    notesTime: mayBeReplaced(config),
  });
  await firstConnection(redis);
  if (redis.status === 'ready') await within(performance.now() + FIRST_CHECK_MS, serverCheck.whenUsable());
  return {
    enqueueAgain,
    areQueued: createQueuedCheck({ redis, queue, serverCheck }),
    close() {
      serverCheck.close();
      writer?.close();
      redis.disconnect();
    },
  };
}
