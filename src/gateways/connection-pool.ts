/** A bounded number of places, given in the order of the calls. got cannot limit the wait for a free connection. */
export interface ConnectionPool {
  /** Resolves with true and a place, which the caller gives back by `release()`; with false after the pool's time-out. */
  acquire(): Promise<boolean>;
  release(): void;
  /** Whether `acquire` would give a place at once. */
  readonly hasFreePlace: boolean;
  /**
   * Whether `acquire` would probably resolve with false: the pool has been full for its whole time-out, and at least as many
   * callers wait as got a place within that time. False while no caller waits, so that the next one tries.
   */
  readonly wouldWaitInVain: boolean;
}

export function createConnectionPool({ size, timeoutMs }: { size: number; timeoutMs: number }): ConnectionPool {
  let free = size;
  /** A Set keeps the order of the calls, and deletes a caller that gave up at constant cost. */
  const waiting = new Set<() => void>();
  let fullSinceMs = 0;
  /** Places handed on to waiting callers, in this span of `timeoutMs` and in the one before. */
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
        const timeOut = () => {
          if (waiting.delete(proceed)) resolve(false);
        };
        // Node runs due timers before it reads from the network. After a stop of the process (a CPU limit stops it for 50 ms
        // and more) a response that frees a place may still be unread. setImmediate lets Node read it first.
        const timer = setTimeout(() => setImmediate(timeOut), timeoutMs);
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
