/** A bounded number of places, given in the order of asking. got has no limit on the wait for a free connection. */
export interface ConnectionPool {
  /** True with a place, which must be given back by `release()`; false when none became free within the pool's time-out. */
  acquire(): Promise<boolean>;
  release(): void;
  /** Whether `acquire` would give a place at once. */
  readonly hasFreePlace: boolean;
  /**
   * Whether `acquire` would probably give false: the pool has been full for its whole time-out, and as many wait as got a
   * place within that time. While nobody waits it is false, so that somebody sees whether places become free.
   */
  readonly wouldWaitInVain: boolean;
}

export function createConnectionPool({ size, timeoutMs }: { size: number; timeoutMs: number }): ConnectionPool {
  let free = size;
  /** A Set keeps the order of asking and forgets who has given up, both at constant cost. */
  const waiting = new Set<() => void>();
  let fullSinceMs = 0;
  /** Places handed on to a waiter, in this span of `timeoutMs` and in the one before. */
  let span = { startMs: 0, handedOn: 0, handedOnBefore: 0 };

  function currentSpan(nowMs: number): typeof span {
    const passed = Math.floor((nowMs - span.startMs) / timeoutMs);
    if (passed > 0) {
      span = {
        startMs: span.startMs + passed * timeoutMs,
        handedOn: 0,
        handedOnBefore: passed === 1 ? span.handedOn : 0,
      };
    }
    return span;
  }

  return {
    get hasFreePlace() {
      return free > 0;
    },
    get wouldWaitInVain() {
      const nowMs = performance.now();
      if (free > 0 || waiting.size === 0 || nowMs - fullSinceMs < timeoutMs) return false;
      const { handedOn, handedOnBefore } = currentSpan(nowMs);
      return waiting.size >= Math.max(handedOn, handedOnBefore);
    },
    acquire() {
      if (free > 0) {
        free -= 1;
        if (free === 0) fullSinceMs = performance.now();
        return Promise.resolve(true);
      }
      return new Promise((resolve) => {
        const giveUp = () => {
          if (waiting.delete(proceed)) resolve(false);
        };
        // Node runs timers that are due before it reads what has arrived. After a stop of the process (a CPU limit takes it from the
        // core for 50 ms and more) places may be free by responses that are still unread: they are read first.
        const timer = setTimeout(() => setImmediate(giveUp), timeoutMs);
        const proceed = () => {
          clearTimeout(timer);
          resolve(true);
        };
        waiting.add(proceed);
      });
    },
    release() {
      const [next] = waiting;
      if (next === undefined) {
        free += 1;
        return;
      }
      waiting.delete(next);
      currentSpan(performance.now()).handedOn += 1;
      next();
    },
  };
}
