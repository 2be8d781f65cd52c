/**
 * Waits for the promise, but not beyond the deadline: then it resolves with undefined.
 * @param deadline in ms of `performance.now()`
 * @throws what the promise rejects with before the deadline
 */
export async function within<T>(deadline: number, promise: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), Math.max(0, deadline - performance.now()));
  });
  return await Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}
