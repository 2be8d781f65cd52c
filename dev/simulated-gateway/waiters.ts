/** Those who wait until something holds. @param seen What there is to see, told to those who waited in vain. */
export function createWaiters(seen: () => string) {
  const waiters = new Set<{ check(): void; reject(reason: Error): void }>();
  return {
    /** Resolves when `holds` returns true, asked now and at each `check`. Rejects when it throws, and after the time. */
    waitFor(holds: () => boolean, name: string, timeoutMs = 5000): Promise<void> {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const settled = (settle: () => void) => {
        waiters.delete(waiter);
        clearTimeout(timer);
        settle();
      };
      const waiter = {
        check() {
          try {
            if (holds()) settled(resolve);
          } catch (error) {
            settled(() => reject(error));
          }
        },
        reject: (reason: Error) => settled(() => reject(reason)),
      };
      const timer = setTimeout(() => {
        waiter.reject(new Error(`waited ${timeoutMs} ms in vain: ${name} (${seen()})`));
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
