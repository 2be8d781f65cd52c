import { Redis } from 'ioredis';
import type { RedisConfig } from '../config.ts';

/** How long a sentinel may take for a reply. A client may wait for it. */
const REPLY_MS = 200;

/**
 * How many replicas the sentinels know of that one of them may have promoted: the most that any sentinel knows. A sentinel that has
 * not heard of a promotion counts the promoted one; another one counts the old primary.
 * @returns 0 without sentinels, and when none responds within {@link REPLY_MS}
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
    } catch {
      return 0;
    } finally {
      sentinel.disconnect();
    }
  });
  return Math.max(0, ...(await Promise.all(counts)));
}

/** @param replica names and values in turn */
function isUp(replica: readonly string[]): boolean {
  return !/s_down|o_down|disconnected/.test(replica[replica.indexOf('flags') + 1]!);
}
