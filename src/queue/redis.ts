import { once } from 'node:events';
import { Cluster, Redis, type RedisOptions } from 'ioredis';
import type { RedisConfig } from '../config.ts';
import { within } from '../process/deadline.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';
import { guardConnection } from './connection-guard.ts';
import { explainRedisError } from './redis-errors.ts';

/**
 * A reply later than this counts as none. A request waits for at most two of them, the flush under way and its own,
 * and must be answered within a second.
 */
const PRODUCER_COMMAND_TIMEOUT_MS = 450;

/** A connection that has been silent for so long while an answer is due is replaced by a new one. */
const SOCKET_TIMEOUT_MS = 5_000;

/** Pauses between attempts to connect: short, because nothing else tells that Redis is back. */
const retryStrategy = (times: number) => Math.min(times * 50, 500);

/**
 * A connection for those who must answer at once: a command fails in milliseconds while Redis is away, and within
 * {@link PRODUCER_COMMAND_TIMEOUT_MS} while it hangs. It recovers by itself, also when Redis was absent at the start.
 */
export function createProducerConnection(config: RedisConfig): Redis | Cluster {
  return connect(config, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    // A command cut off by a lost connection has been answered 503 by the time it could be sent again.
    autoResendUnfulfilledCommands: false,
    commandTimeout: PRODUCER_COMMAND_TIMEOUT_MS,
    connectTimeout: 1_000,
    socketTimeout: SOCKET_TIMEOUT_MS,
  });
}

/** The same for the worker, whose waiting for a job may be silent for 10 s (BullMQ's longest BZPOPMIN). */
const WORKER_SOCKET_TIMEOUT_MS = 15_000;

/** A connection for the worker, which has nobody waiting: commands wait until Redis is back. */
export function createWorkerConnection(config: RedisConfig): Redis | Cluster {
  return connect(config, {
    maxRetriesPerRequest: null,
    connectTimeout: 2_000,
    socketTimeout: WORKER_SOCKET_TIMEOUT_MS,
  });
}

function connect({ url, socketPath, clusterNodes }: RedisConfig, options: RedisOptions): Redis | Cluster {
  const redisOptions: RedisOptions = {
    ...options,
    retryStrategy,
    // After a failover the old master answers READONLY; a new connection finds the new one.
    reconnectOnError: (error) => error.message.startsWith('READONLY'),
  };
  if (clusterNodes.length === 0) {
    return guardConnection(new Redis(url, { ...redisOptions, ...(socketPath && { path: socketPath }) }));
  }
  const { username, password, protocol } = new URL(url);
  const cluster = new Cluster([...clusterNodes], {
    clusterRetryStrategy: retryStrategy,
    enableOfflineQueue: redisOptions.enableOfflineQueue ?? true,
    redisOptions: {
      ...redisOptions,
      ...(username && { username: decodeURIComponent(username) }),
      ...(password && { password: decodeURIComponent(password) }),
      ...(protocol === 'rediss:' && { tls: {} }),
    },
  });
  return guardConnection(cluster);
}

/** How long the first connection may take before its user goes on without it. */
const FIRST_CONNECTION_MS = 1_000;

/** Resolves when a new connection is there, has been refused, or has been waited for long enough. */
export async function firstConnection(redis: Redis | Cluster): Promise<void> {
  if (redis.status === 'ready') return;
  // `once` rejects at an error event, which a refused connection emits.
  const settled = once(redis, 'ready').catch(() => undefined);
  await within(performance.now() + FIRST_CONNECTION_MS, settled);
}

/** Says why Redis cannot be reached, and when it is back; not how often it was tried meanwhile. */
export function logConnection(redis: Redis | Cluster, logger: Logger): void {
  const outage = createOutageLog(logger, {
    message: 'redis is unavailable',
    endMessage: 'redis is available again',
  });
  redis.on('error', (error: Error) => outage.failed(explainRedisError(error)));
  redis.on('ready', () => outage.ended());
}
