/**
 * Waits for the promise, but not beyond the deadline.
 * @param deadline in ms of `performance.now()`
 * @throws what the promise rejects with before the deadline
 */
export async function within(deadline: number, promise: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise((resolve) => {
    timer = setTimeout(resolve, Math.max(0, deadline - performance.now()));
  });
  await Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}
