import { Cluster, type Redis } from 'ioredis';
import { isMissingRight, isSelectError } from './redis-errors.ts';

/**
 * Stands for the INFO that we have no right to: the oldest version that we support. Without a version BullMQ would assume the
 * oldest it knows, and sleep in whole seconds.
 */
const ASSUMED_INFO = 'redis_version:6.2.0\r\n';

/**
 * Corrects two things that ioredis and BullMQ do with a connection and its duplicates.
 * - After a SELECT that failed ioredis goes on in database 0, where another stack may have its queue. Here such a connection
 *   never becomes ready. It is closed and made again, so that it works as soon as the server has the database.
 * - Without the right to INFO ioredis writes to the console at every connect, and BullMQ's worker never starts. Neither needs
 *   INFO.
 */
export function guardConnection<Connection extends Redis | Cluster>(connection: Connection): Connection {
  // A cluster has one database only. It reports each of its connections before that connects.
  if (connection instanceof Cluster) connection.on('+node', tolerateMissingInfo);
  else guardSingle(connection);
  return connection;
}

function guardSingle(redis: Redis): Redis {
  tolerateMissingInfo(redis);
  redis.on('error', (error: Error) => {
    if (isSelectError(error)) redis.disconnect(true);
  });
  const duplicate = redis.duplicate.bind(redis);
  redis.duplicate = (override) => guardSingle(duplicate(override));
  return redis;
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
