/** A bounded number of places, given in the order of asking. got has no limit on the wait for a free connection. */
export interface ConnectionPool {
  /** True with a place, which must be given back by `release()`; false when none became free within the pool's time-out. */
  acquire(): Promise<boolean>;
  release(): void;
  /** Whether `acquire` would give a place at once. */
  readonly hasFreePlace: boolean;
}

export function createConnectionPool({ size, timeoutMs }: { size: number; timeoutMs: number }): ConnectionPool {
  let free = size;
  /** A Set keeps the order of asking and forgets who has given up, both at constant cost. */
  const waiting = new Set<() => void>();

  return {
    get hasFreePlace() {
      return free > 0;
    },
    acquire() {
      if (free > 0) {
        free -= 1;
        return Promise.resolve(true);
      }
      return new Promise((resolve) => {
        const giveUp = () => {
          if (waiting.delete(proceed)) resolve(false);
        };
        // Node runs due timers before it reads what has come. After a stop of the process (a CPU limit takes it from the
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
      next();
    },
  };
}
