import { Cluster, type Redis } from 'ioredis';
import { isMissingRight, isSelectError } from './redis-errors.ts';

/**
 * Stands for the INFO that we have no right to: the oldest version that we support. Without a version BullMQ would assume the
 * oldest it knows, and sleep in whole seconds.
 */
const ASSUMED_INFO = 'redis_version:6.2.0\r\n';

/**
 * Puts three things right that ioredis and BullMQ do with a connection and its duplicates.
 * - A refused SELECT: ioredis reports it and goes on in database 0, where another stack may have its queue. Here such a
 *   connection never becomes ready; it is closed and tried anew, so that it goes on by itself when the server is put right.
 * - A user without the right to INFO: ioredis writes to the console at every connect, and BullMQ's worker never starts.
 *   Neither needs it.
 * - A closed connection: ioredis forgets to end its timers.
 */
export function guardConnection<Connection extends Redis | Cluster>(connection: Connection): Connection {
  // A cluster has one database only. It reports each of its connections before that connects.
  if (connection instanceof Cluster) connection.on('+node', tolerateMissingInfo);
  else guardSingle(connection);
  return connection;
}

function guardSingle(redis: Redis): Redis {
  tolerateMissingInfo(redis);
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
  readonly connector: { stream: unknown };
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
