import type { Cluster, Redis } from 'ioredis';

/**
 * The time of the Redis that has the queue. Redis stamps every payment, so a payment's age must be computed with the same
 * clock. The clocks of API nodes and workers may be wrong, and may step.
 */
export interface RedisClock {
  /**
   * Redis' time in ms since 1970, exact to half a round trip. It advances by the monotonic clock of this process, so a step of
   * the wall clock does not move it. Before the first measurement it is this process' own time.
   */
  nowMs(): number;
  /** Whether the time was measured. */
  readonly isKnown: boolean;
  /** Resolves after the first measurement. */
  known(): Promise<void>;
  close(): void;
}

/** In this time the clocks of two computers drift apart by some ms. */
const REFRESH_MS = 30_000;

const RETRY_MS = 1_000;

/** A reply that took longer is too inexact: the measurement is repeated, at most so many times. */
const SLOW_REPLY_MS = 20;
const TRIES = 3;

/** With a key, so that a cluster asks the node of the queue, which stamps the payments. */
const TIME_SCRIPT = "return redis.call('TIME')";

export function createRedisClock({
  redis,
  key,
  refreshMs = REFRESH_MS,
}: {
  redis: Redis | Cluster;
  /** A key of the queue; it is not touched. */
  key: string;
  refreshMs?: number;
}): RedisClock {
  let offsetMs = performance.timeOrigin;
  let isKnown = false;
  let markKnown = () => {};
  const known = new Promise<void>((resolve) => {
    markKnown = resolve;
  });

  async function measure(): Promise<void> {
    let best: { offsetMs: number; tookMs: number } | undefined;
    for (let tries = 0; tries < TRIES && (best === undefined || best.tookMs > SLOW_REPLY_MS); tries += 1) {
      const sentAtMs = performance.now();
      const [seconds, microseconds] = (await redis.eval(TIME_SCRIPT, 1, key)) as [string, string];
      const tookMs = performance.now() - sentAtMs;
      if (best !== undefined && tookMs >= best.tookMs) continue;
      const redisMs = Number(seconds) * 1_000 + Number(microseconds) / 1_000;
      best = { offsetMs: redisMs - (sentAtMs + tookMs / 2), tookMs };
    }
    offsetMs = best!.offsetMs;
    isKnown = true;
    markKnown();
  }

  let timer: NodeJS.Timeout | undefined;
  let isClosed = false;

  /** A failed measurement is repeated soon; the last offset serves until then. */
  async function look(): Promise<void> {
    clearTimeout(timer);
    const nextMs = await (redis.status === 'ready' ? measure() : Promise.reject(new Error('not connected'))).then(
      () => refreshMs,
      () => RETRY_MS,
    );
    clearTimeout(timer);
    if (!isClosed) timer = setTimeout(lookAgain, nextMs).unref();
  }

  /** `look` never rejects. */
  const lookAgain = () => void look();
  redis.on('ready', lookAgain);
  lookAgain();

  return {
    nowMs: () => performance.now() + offsetMs,
    get isKnown() {
      return isKnown;
    },
    known: () => known,
    close() {
      isClosed = true;
      clearTimeout(timer);
      redis.off('ready', lookAgain);
    },
  };
}
