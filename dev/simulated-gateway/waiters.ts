/** Lets callers wait for a condition. @param seen describes the current state, for the error after a time-out */
export function createWaiters(seen: () => string) {
  const waiters = new Set<{ check(): void; reject(reason: Error): void }>();
  return {
    /** Resolves when `isMet` returns true, now or at a later `check`. Rejects when it throws, and after `timeoutMs`. */
    waitFor(isMet: () => boolean, name: string, timeoutMs = 5000): Promise<void> {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const settled = (settle: () => void) => {
        waiters.delete(waiter);
        clearTimeout(timer);
        settle();
      };
      const waiter = {
        check() {
          try {
            if (isMet()) settled(resolve);
          } catch (error) {
            settled(() => reject(error));
          }
        },
        reject: (reason: Error) => settled(() => reject(reason)),
      };
      const timer = setTimeout(() => {
        waiter.reject(new Error(`did not happen within ${timeoutMs} ms: ${name} (${seen()})`));
      }, timeoutMs);
      waiters.add(waiter);
      waiter.check();
      return promise;
    },
    check(): void {
      for (const waiter of waiters) waiter.check();
    },
    rejectAll(reason: Error): void {
      for (const waiter of waiters) waiter.reject(reason);
    },
  };
}
