import { Redis } from 'ioredis';
import type { RedisConfig } from '../config.ts';
import { NotReplicatedError } from './redis-errors.ts';

/** How long a sentinel may take for a reply. A client may wait for it. */
const REPLY_MS = 200;

/**
 * How many replicas the sentinels know of that one of them may have promoted: the most that any sentinel knows. A sentinel that has
 * not heard of a promotion counts the promoted one; another one counts the old primary.
 * @returns 0 without sentinels
 * @throws NotReplicatedError when none responds within {@link REPLY_MS}: also when this process itself was too busy. With a guess
 *   of 0 a write could count that only a replica has which will not be promoted
 */
export async function countPromotable({ url, sentinels }: RedisConfig): Promise<number> {
  if (sentinels === undefined) return 0;
  const isTls = new URL(url).protocol === 'rediss:';
  const counts = sentinels.nodes.map(async (node) => {
    const sentinel = new Redis({
      ...node,
      ...(sentinels.password !== undefined && { password: sentinels.password }),
      ...(isTls && { tls: {} }),
      lazyConnect: true,
      retryStrategy: null,
      connectTimeout: REPLY_MS,
      commandTimeout: REPLY_MS,
    });
    sentinel.on('error', () => {});
    try {
      const replicas = (await sentinel.call('SENTINEL', 'REPLICAS', sentinels.masterName)) as string[][];
      return replicas.filter(isUp).length;
    } finally {
      sentinel.disconnect();
    }
  });
  const replies = await Promise.allSettled(counts);
  const known = replies.flatMap((reply) => (reply.status === 'fulfilled' ? [reply.value] : []));
  if (known.length > 0) return Math.max(...known);
  const [reason] = replies.flatMap((reply) => (reply.status === 'rejected' ? [String(reply.reason)] : []));
  throw new NotReplicatedError(`no sentinel says how many replicas Redis has: ${reason}`);
}

/**
 * A replica without a connection to the sentinel counts until it has been down for `down-after-milliseconds`: after a start and
 * after a promotion a sentinel has yet to connect to each one.
 * @param replica names and values in turn
 */
function isUp(replica: readonly string[]): boolean {
  return !/[so]_down/.test(replica[replica.indexOf('flags') + 1]!);
}
