/**
 * Does the work of each item, so many at a time, in their order.
 * @throws the first error, once the work under way has ended. No further item begins after an error.
 */
export async function inParallel<T>(
  items: Iterable<T>,
  atOnce: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  // All of them draw from one iterator, so each item is drawn once.
  const rest = items[Symbol.iterator]();
  const failures: unknown[] = [];
  async function draw(): Promise<void> {
    while (failures.length === 0) {
      const next = rest.next();
      if (next.done) return;
      try {
        await work(next.value);
      } catch (error) {
        failures.push(error);
      }
    }
  }
  await Promise.all(Array.from({ length: atOnce }, draw));
  if (failures.length > 0) throw failures[0];
}
