import { within } from '../process/deadline.ts';

/**
 * Reads at most once in `ageMs`, and never while it reads. All calls meanwhile get the result of the last reading, undefined
 * when it failed.
 */
export function shared<T>(read: () => Promise<T>, ageMs: number): () => Promise<T | undefined> {
  let reading: Promise<T | undefined> = Promise.resolve(undefined);
  let isReading = false;
  let nextAtMs = Number.NEGATIVE_INFINITY;
  return () => {
    if (isReading || performance.now() < nextAtMs) return reading;
    isReading = true;
    nextAtMs = performance.now() + ageMs;
    reading = read()
      .catch(() => undefined)
      .finally(() => {
        isReading = false;
      });
    return reading;
  };
}

/** What the promise resolves with, undefined when it takes longer. @param deadline in ms of `performance.now()` */
export async function byThen<T>(deadline: number, promise: Promise<T | undefined>): Promise<T | undefined> {
  let value: T | undefined;
  await within(
    deadline,
    promise.then((result) => {
      value = result;
    }),
  );
  return value;
}
