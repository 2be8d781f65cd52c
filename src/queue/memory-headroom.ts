import type { Cluster, Redis } from 'ioredis';

/**
 * Keeps a part of Redis' memory free for the worker. At its `maxmemory` Redis refuses whatever needs memory, the fetching of
 * a payment as well: full of payments that wait, it would stay full for ever.
 */
export interface MemoryHeadroom {
  /** Why nothing may be added now; undefined when `bytes` more are welcome. Asks Redis now and then, so it is cheap. */
  shortageFor(bytes: number): Promise<string | undefined>;
}

/** What may be used before payments are not accepted. What is left takes the worker's writes and the replies under way. */
const SHARE = 0.9;

/** How much is added between two looks: far less than the headroom of a Redis of 60 MB. */
const LOOK_EVERY_BYTES = 1024 * 1024;

/** While it is full: how soon it is noticed that the worker has made room. */
const LOOK_EVERY_MS = 100;

/** With a key, so that a cluster asks the node that holds the queue. */
const MEMORY_SCRIPT = "return redis.call('INFO', 'memory')";

export function createMemoryHeadroom({ redis, key }: { redis: Redis | Cluster; key: string }): MemoryHeadroom {
  /** What may be added before the next look. */
  let budget = 0;
  let lookedAtMs = Number.NEGATIVE_INFINITY;
  let shortage: string | undefined;

  /** Bytes that may still be added. Infinity: without a limit, or it may not be seen. */
  async function free(): Promise<number> {
    let info: string;
    try {
      info = String(await redis.eval(MEMORY_SCRIPT, 1, key));
    } catch {
      // Without the right, or without Redis: adding itself tells what is wrong.
      return Number.POSITIVE_INFINITY;
    }
    const sizeOf = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0);
    const max = sizeOf('maxmemory');
    return max > 0 ? SHARE * max - sizeOf('used_memory') : Number.POSITIVE_INFINITY;
  }

  return {
    async shortageFor(bytes) {
      if (bytes <= budget) {
        budget -= bytes;
        return undefined;
      }
      if (shortage !== undefined && performance.now() - lookedAtMs < LOOK_EVERY_MS) return shortage;
      const left = (await free()) - bytes;
      lookedAtMs = performance.now();
      budget = Math.max(0, Math.min(left, LOOK_EVERY_BYTES));
      shortage =
        left < 0
          ? 'Redis has used 90 % of its maxmemory; what is left is kept for the workers, which make room'
          : undefined;
      return shortage;
    },
  };
}
