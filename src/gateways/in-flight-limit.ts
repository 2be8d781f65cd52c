/**
 * The requests that this worker may have under way at one gateway: its share of GATEWAY_MAX_IN_FLIGHT. A request that
 * finds no place waits, in the order of the calls. This wait is the relay's own rule, and says nothing about the gateway's connections: it
 * never ends as `pool_timeout`.
 */
export interface InFlightLimit {
  /** Requests under way. For a while above the limit when that was lowered: no request is broken off. */
  readonly taken: number;
  readonly hasFree: boolean;
  /** Takes a place, which the caller gives back by `release()`. False after `maxWaitMs`, or when the places are closed. */
  take(maxWaitMs: number): boolean | Promise<boolean>;
  release(): void;
  /** From now on the limit is another one. */
  resize(limit: number): void;
  /** Ends every wait, because the process is shutting down. */
  close(): void;
}

export function createInFlightLimit(initialLimit = Number.POSITIVE_INFINITY): InFlightLimit {
  let limit = initialLimit;
  let taken = 0;
  /** A Set keeps the order of the calls, and deletes a caller that gave up at constant cost. */
  const waiting = new Set<(hasPlace: boolean) => void>();

  function handOn(): void {
    for (const proceed of waiting) {
      if (taken >= limit) return;
      proceed(true);
    }
  }

  return {
    get taken() {
      return taken;
    },
    get hasFree() {
      return taken < limit;
    },
    take(maxWaitMs) {
      if (taken < limit) {
        taken += 1;
        return true;
      }
      if (maxWaitMs <= 0) return false;
      return new Promise((resolve) => {
        const proceed = (hasPlace: boolean) => {
          waiting.delete(proceed);
          clearTimeout(givingUp);
          if (hasPlace) taken += 1;
          resolve(hasPlace);
        };
        const givingUp = Number.isFinite(maxWaitMs) ? setTimeout(() => proceed(false), maxWaitMs) : undefined;
        waiting.add(proceed);
      });
    },
    release() {
      taken -= 1;
      handOn();
    },
    resize(next) {
      limit = next;
      handOn();
    },
    close() {
      for (const proceed of waiting) proceed(false);
    },
  };
}

/** The places at both gateways, each under the same bound of all workers together. */
export function createInFlightLimits(bound: number) {
  // Until a worker knows how many there are, it takes the least.
  const least = Number.isFinite(bound) ? 1 : bound;
  const places = { primary: createInFlightLimit(least), fallback: createInFlightLimit(least) };
  return {
    ...places,
    divide(standing: Parameters<typeof shareOf>[1]): void {
      for (const each of Object.values(places)) each.resize(shareOf(bound, standing));
    },
  };
}

/**
 * This worker's share of a bound that all live workers keep together. The shares add up to the bound, unless there are more
 * workers than places: each has at least one.
 * @param rank of this worker among the live ones, from 0
 */
export function shareOf(bound: number, { rank, workers }: { rank: number; workers: number }): number {
  if (!Number.isFinite(bound)) return bound;
  return Math.max(1, Math.floor(bound / workers) + (rank < bound % workers ? 1 : 0));
}
