import { Cluster, type Redis } from 'ioredis';
import { settleReconnects } from './cluster-reconnect.ts';
import { isMissingRight, isSelectError } from './redis-errors.ts';

/**
 * Stands for the INFO that we have no right to: the oldest version that we support. Without a version BullMQ would assume the
 * oldest it knows, and sleep in whole seconds.
 */
const ASSUMED_INFO = 'redis_version:6.2.0\r\n';

/**
 * Puts six things right that ioredis and BullMQ do with a connection and its duplicates.
 * - A refused SELECT: ioredis reports it and goes on in database 0, where another stack may have its queue. Here such a
 *   connection never becomes ready; it is closed and tried anew, so that it goes on by itself when the server is put right.
 * - A user without the right to INFO: ioredis writes to the console at every connect, and BullMQ's worker never starts.
 *   Neither needs it.
 * - A closed connection: ioredis forgets to end its timers.
 * - A connection that is closed while it is being made, so that a new one is made: ioredis makes none, and every later command
 *   fails. That happens when the sentinels tell of a new master while we ask them for it.
 * - A cluster that is closed or connects anew: it may never come to an end of that (cluster-reconnect.ts).
 * - A cluster that has lost a node: ioredis may send BullMQ's INFO to that one.
 */
export function guardConnection<Connection extends Redis | Cluster>(connection: Connection): Connection {
  if (connection instanceof Cluster) guardCluster(connection);
  else guardSingle(connection);
  return connection;
}

/** A cluster has one database only. */
function guardCluster(cluster: Cluster): Cluster {
  // It reports each of its connections before that connects.
  cluster.on('+node', (node: Redis) => {
    tolerateMissingInfo(node);
    endTimersAtClose(node);
  });
  endRefreshes(cluster);
  settleReconnects(cluster);
  askConnectedNodeForInfo(cluster);
  refreshForDuplicates(cluster);
  return cluster;
}

/**
 * A duplicate need not read the slot table in turns of its own, for which it opens a connection each time: it reads when the table of
 * the first one names another master. A worker of a sharded queue has a duplicate for each shard.
 */
function refreshForDuplicates(cluster: Cluster): void {
  const duplicates = new Set<Cluster>();
  const duplicate = cluster.duplicate.bind(cluster);
  cluster.duplicate = (nodes, options) => {
    const copy = guardCluster(duplicate(nodes, { ...options, slotsRefreshInterval: 0 }));
    duplicates.add(copy);
    copy.on('end', () => duplicates.delete(copy));
    return copy;
  };
  const refresh = cluster.refreshSlotsCache.bind(cluster);
  cluster.refreshSlotsCache = (callback) =>
    refresh((error, result) => {
      const isOld = ({ slots }: Cluster) => cluster.slots.some((nodes, slot) => nodes[0] !== slots[slot]?.[0]);
      if (!error) for (const copy of duplicates) if (isOld(copy)) copy.refreshSlotsCache();
      callback?.(error, result);
    });
}

/** The cluster duplicates one of its connections whenever it reads the slot table. */
function endTimersAtClose(redis: Redis): Redis {
  redis.on('close', () => endTimers(redis));
  const duplicate = redis.duplicate.bind(redis);
  redis.duplicate = (override) => endTimersAtClose(duplicate(override));
  return redis;
}

/**
 * BullMQ's worker asks for INFO before it begins. ioredis would send that to a random node. When that one is lost, the worker would
 * not begin, although the server of its queue responds. A cluster that is ready has asked one of its nodes before.
 */
function askConnectedNodeForInfo(cluster: Cluster): void {
  const info = cluster.info.bind(cluster) as () => Promise<string>;
  const connected = () => cluster.nodes().find(({ status }) => status === 'ready');
  cluster.info = (() => connected()?.info() ?? info()) as Cluster['info'];
}

/** A reading of the slot table that outlasts the connection would start a timer for the next one, for ever. */
function endRefreshes(cluster: Cluster): void {
  const refresh = cluster.refreshSlotsCache.bind(cluster);
  cluster.refreshSlotsCache = (callback) =>
    refresh((error, result) => {
      if (!['disconnecting', 'close', 'end'].includes(cluster.status)) callback?.(error, result);
    });
}

function guardSingle(redis: Redis): Redis {
  tolerateMissingInfo(redis);
  connectAgain(redis);
  redis.on('close', () => endTimers(redis));
  redis.on('error', (error: Error) => {
    if (isSelectError(error)) redis.disconnect(true);
  });
  const duplicate = redis.duplicate.bind(redis);
  redis.duplicate = (override) => guardSingle(duplicate(override));
  return redis;
}

/** Private parts of ioredis 5. */
interface Inside {
  socketTimeoutTimer: NodeJS.Timeout | undefined;
  /** Set by `disconnect()`, and not by `disconnect(true)`. */
  readonly manuallyClosing: boolean;
  readonly connector: { stream: unknown; connect(onEvent: unknown): Promise<unknown> };
}

/** What ioredis throws when it was told to disconnect before it had a socket. */
const CLOSED = 'Connection is closed.';

function connectAgain(redis: Redis): void {
  const inside = redis as unknown as Inside;
  const { connector } = inside;
  const connect = connector.connect.bind(connector);
  connector.connect = async (onEvent) => {
    for (;;) {
      try {
        return await connect(onEvent);
      } catch (error) {
        if ((error as Error).message !== CLOSED || inside.manuallyClosing) throw error;
      }
    }
  };
}

/**
 * Ends what ioredis leaves behind when a connection closes. Its socket timeout would destroy the next connection in the
 * place of this one. And a `disconnect` between two attempts would wait 2 s for the socket that has closed already.
 */
function endTimers(redis: Redis): void {
  const inside = redis as unknown as Inside;
  clearTimeout(inside.socketTimeoutTimer);
  inside.socketTimeoutTimer = undefined;
  inside.connector.stream = undefined;
}

type Reply = (error: Error | null, text?: string) => void;

function tolerateMissingInfo(redis: Redis): void {
  const info = redis.info.bind(redis) as (...sections: string[]) => Promise<string>;
  redis.info = ((...args: (string | Reply)[]) => {
    const reply = typeof args.at(-1) === 'function' ? (args.pop() as Reply) : undefined;
    const text = info(...(args as string[])).catch((error: Error) => {
      if (isMissingRight(error.message)) return ASSUMED_INFO;
      throw error;
    });
    // ioredis passes a callback, BullMQ awaits the promise.
    if (reply) {
      text.then(
        (value) => reply(null, value),
        (error: Error) => reply(error),
      );
    }
    return text;
  }) as Redis['info'];
}
