/**
 * Resolves when the promise does, or at the deadline, whichever comes first. @throws what the promise rejects with by then.
 * @param deadline In ms as `performance.now()` counts.
 */
export async function within(deadline: number, promise: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise((resolve) => {
    timer = setTimeout(resolve, Math.max(0, deadline - performance.now()));
  });
  await Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}
