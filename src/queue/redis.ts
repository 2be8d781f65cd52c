import { once } from 'node:events';
import { Cluster, Redis, type RedisOptions } from 'ioredis';
import type { RedisConfig } from '../config.ts';
import { within } from '../process/deadline.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';
import { guardConnection } from './connection-guard.ts';
import { explainRedisError } from './redis-errors.ts';

/**
 * After so long a command fails. A request waits for at most two flushes, the current one and its own, and its client must get
 * a response within a second.
 */
const PRODUCER_COMMAND_TIMEOUT_MS = 450;

/** A new connection replaces one that is silent for this time while a reply is due. */
const SOCKET_TIMEOUT_MS = 5_000;

/** Pauses between attempts to connect. Short, because only an attempt shows that Redis is back. */
const retryStrategy = (times: number) => Math.min(times * 50, 500);

/**
 * The API's connection, for clients that wait: a command fails in milliseconds while Redis is down, and within
 * {@link PRODUCER_COMMAND_TIMEOUT_MS} while it hangs. It recovers by itself, also when Redis was down at the start.
 */
export function createProducerConnection(config: RedisConfig): Redis | Cluster {
  return connect(config, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    // By the time that an interrupted command could be sent again, its client has got a 503.
    autoResendUnfulfilledCommands: false,
    commandTimeout: PRODUCER_COMMAND_TIMEOUT_MS,
    connectTimeout: 1_000,
    socketTimeout: SOCKET_TIMEOUT_MS,
  });
}

/** The same for the worker. Its connection may be silent for 10 s while it waits for a job (BullMQ's longest BZPOPMIN). */
const WORKER_SOCKET_TIMEOUT_MS = 15_000;

/** The worker's connection. No client waits on it, so commands queue until Redis is back. */
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
    // After a failover the old master replies READONLY. A new connection finds the new one.
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

/** Resolves when the first connection is made or refused, at the latest after {@link FIRST_CONNECTION_MS}. */
export async function firstConnection(redis: Redis | Cluster): Promise<void> {
  if (redis.status === 'ready') return;
  // `once` rejects at an error event, which a refused connection emits.
  const settled = once(redis, 'ready').catch(() => undefined);
  await within(performance.now() + FIRST_CONNECTION_MS, settled);
}

/** Logs why Redis is unreachable, and when it is back, without a line for each attempt. */
export function logConnection(redis: Redis | Cluster, logger: Logger): void {
  const outage = createOutageLog(logger, {
    message: 'redis is unavailable',
    endMessage: 'redis is available again',
  });
  redis.on('error', (error: Error) => outage.failed(explainRedisError(error)));
  redis.on('ready', () => outage.ended());
}
