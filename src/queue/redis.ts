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
export const PRODUCER_COMMAND_TIMEOUT_MS = 450;

/** A new connection replaces one that is silent for this time while a reply is due. */
const SOCKET_TIMEOUT_MS = 5_000;

/** Pauses between attempts to connect. Short, because only an attempt shows that Redis is back. */
const retryStrategy = (times: number) => Math.min(times * 50, 500);

/**
 * The API's connection, for clients that wait: a command fails in milliseconds while Redis is down, and within
 * {@link PRODUCER_COMMAND_TIMEOUT_MS} while it hangs. It recovers by itself, also when Redis was down at the start.
 */
export function createProducerConnection(config: RedisConfig): Redis | Cluster {
  return connect(config, PRODUCER_OPTIONS);
}

const PRODUCER_OPTIONS: RedisOptions = {
  enableOfflineQueue: false,
  maxRetriesPerRequest: 0,
  // By the time that an interrupted command could be sent again, its client has got a 503.
  autoResendUnfulfilledCommands: false,
  commandTimeout: PRODUCER_COMMAND_TIMEOUT_MS,
  connectTimeout: 1_000,
  socketTimeout: SOCKET_TIMEOUT_MS,
};

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

/**
 * A connection to the server itself that serves a key of a cluster. It does not follow the cluster: when that moves the key,
 * the server replies MOVED.
 */
export function connectToNode(config: RedisConfig, { host, port }: { host: string; port: number }): Redis {
  return guardConnection(new Redis({ ...nodeOptions(config, PRODUCER_OPTIONS), host, port }));
}

function connect(config: RedisConfig, options: RedisOptions): Redis | Cluster {
  const { url, socketPath, clusterNodes, sentinels } = config;
  if (clusterNodes.length > 0) {
    const cluster = new Cluster([...clusterNodes], {
      clusterRetryStrategy: retryStrategy,
      enableOfflineQueue: options.enableOfflineQueue ?? true,
      // As with one server, a command that no client waits for is tried until a node takes it. With ioredis' default it fails
      // after 16 tries, which a failover outlasts.
      ...(options.maxRetriesPerRequest === null && { maxRedirections: Number.POSITIVE_INFINITY }),
      // While two nodes name each other, a command must not go round without a pause.
      retryDelayOnMoved: MOVED_PAUSE_MS,
      slotsRefreshInterval: SLOTS_REFRESH_MS,
      redisOptions: { ...nodeOptions(config, options), disconnectTimeout: DISCONNECT_MS },
    });
    return guardConnection(cluster);
  }
  if (sentinels !== undefined) {
    const isTls = new URL(url).protocol === 'rediss:';
    return guardConnection(
      new Redis(url, {
        ...options,
        ...RECONNECTING,
        sentinels: [...sentinels.nodes],
        name: sentinels.masterName,
        ...(sentinels.password !== undefined && { sentinelPassword: sentinels.password }),
        ...(isTls && { sentinelTLS: {}, enableTLSForSentinelMode: true }),
        sentinelRetryStrategy: retryStrategy,
        sentinelCommandTimeout: SENTINEL_TIMEOUT_MS,
        // A machine that is lost closes no connection. The sentinels tell of the new master, and the old connection gets this
        // time to end in order.
        failoverDetector: true,
        disconnectTimeout: DISCONNECT_MS,
      }),
    );
  }
  return guardConnection(new Redis(url, { ...options, ...RECONNECTING, ...(socketPath && { path: socketPath }) }));
}

const MOVED_PAUSE_MS = 20;

/**
 * How often a process asks the cluster which node serves what. A master that hangs closes no connection and replies nothing:
 * only the others' word ends the wait for it.
 */
const SLOTS_REFRESH_MS = 2_000;

/**
 * How long a connection may take to close in order before the pool destroys it. A server that hangs closes nothing, and ioredis'
 * own 2 s would come on top of each failover.
 */
const DISCONNECT_MS = 200;

const RECONNECTING: RedisOptions = {
  retryStrategy,
  // After a failover the old master replies READONLY. A new connection finds the new one.
  reconnectOnError: (error) => error.message.startsWith('READONLY'),
};

/** How long a sentinel may take for a reply before the next one is asked. */
const SENTINEL_TIMEOUT_MS = 500;

/** For a node of a cluster: what the URL says beside its host. */
function nodeOptions({ url }: RedisConfig, options: RedisOptions): RedisOptions {
  const { username, password, protocol } = new URL(url);
  return {
    ...options,
    ...RECONNECTING,
    ...(username && { username: decodeURIComponent(username) }),
    ...(password && { password: decodeURIComponent(password) }),
    ...(protocol === 'rediss:' && { tls: {} }),
  };
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
