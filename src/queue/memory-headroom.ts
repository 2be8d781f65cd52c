import type { Cluster, Redis } from 'ioredis';

/**
 * Keeps a part of Redis' memory free for the worker. At its `maxmemory` Redis rejects each command that needs memory, also the
 * fetch of a payment. Full of waiting payments, it would stay full for ever.
 */
export interface MemoryHeadroom {
  /** Why `bytes` more may not be added now; undefined when they may. Asks Redis about once a megabyte, so it is cheap. */
  shortageFor(bytes: number): Promise<string | undefined>;
}

/** Beyond this share of `maxmemory` no payment is accepted. The rest is for the worker's writes and for Redis' replies. */
export const ACCEPTING_SHARE = 0.9;

/** How much may be added between two looks. Far less than the headroom of a Redis of 60 MB. */
const LOOK_EVERY_BYTES = 1024 * 1024;

/** While Redis is full, how often to check whether the worker has made room. */
const LOOK_EVERY_MS = 100;

/** With a key, so that a cluster asks the node of the queue. */
const MEMORY_SCRIPT = "return redis.call('INFO', 'memory')";

export function createMemoryHeadroom({ redis, key }: { redis: Redis | Cluster; key: string }): MemoryHeadroom {
  /** What may be added before the next look. */
  let budget = 0;
  let lookedAtMs = Number.NEGATIVE_INFINITY;
  let shortage: string | undefined;

  /** Bytes that may still be added. Infinity when there is no limit, or when we cannot read it. */
  async function free(): Promise<number> {
    let info: string;
    try {
      info = String(await redis.eval(MEMORY_SCRIPT, 1, key));
    } catch {
      // We lack the right, or Redis is down. The enqueue that follows reports that.
      return Number.POSITIVE_INFINITY;
    }
    const memory = readMemory(info);
    return memory ? ACCEPTING_SHARE * memory.maxBytes - memory.usedBytes : Number.POSITIVE_INFINITY;
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
          ? 'Redis has used 90 % of its maxmemory; the rest is kept for the workers, which make room'
          : undefined;
      return shortage;
    },
  };
}

/** From the text of INFO. Undefined when Redis has no limit, or when we may not read it. */
export function readMemory(info: string): { readonly usedBytes: number; readonly maxBytes: number } | undefined {
  const sizeOf = (name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0);
  const maxBytes = sizeOf('maxmemory');
  return maxBytes > 0 ? { usedBytes: sizeOf('used_memory'), maxBytes } : undefined;
}
