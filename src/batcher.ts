/**
 * Group commit: items that arrive while a flush is under way travel together in the next one.
 *
 * An idle batcher flushes after the event loop has read all that is readable now. So requests that arrived together share a
 * batch, and a single item hardly waits. With `maxWaitMs` an idle batcher waits that long, or until {@link Batcher.hurry} is
 * called. One flush runs at a time. Under load the batch grows by itself to the items that arrive during one round trip.
 */
export interface Batcher<Item, Result> {
  /**
   * Resolves with the result of this item once its flush is done.
   * Rejects with the item's own error, or with the flush's error when the flush failed as a whole;
   * with {@link BatcherOverflowError} when too many items wait; with {@link BatcherClosedError} after `close()`.
   */
  add(item: Item): Promise<Result>;
  /** Ends the wait of `maxWaitMs`: the caller knows that no further item is on its way. Does nothing outside of that wait. */
  hurry(): void;
  /** Rejects new items, flushes the others, and resolves when the last one is settled. May be called twice. */
  close(): Promise<void>;
  /** Items accepted and not yet settled. */
  readonly size: number;
}

export interface BatcherOptions<Item, Result> {
  /**
   * Carries out a batch of 1 to `maxItems` items. Returns a result or an Error for each, in order.
   * When it throws or rejects, every item of the batch, and no other, is rejected with that error.
   */
  flush(items: readonly Item[]): Promise<readonly (Result | Error)[]>;
  /** The largest batch. Too large: one flush blocks the server behind it; too small: a round trip for few items. */
  maxItems: number;
  /**
   * How long an idle batcher waits for further items before it flushes, unless `hurry` ends the wait. Default 0: not at all.
   * It trades latency for fewer and larger batches when items arrive rarely. Items that arrive during a flush share a batch
   * anyway.
   */
  maxWaitMs?: number;
  /**
   * Whether a flush that fails as a whole also rejects the items that wait for the next one, unsent. For a server that
   * hangs: otherwise the next flush would have to reach its time-out, too. Default: they get their own flush.
   */
  failsWaitingToo?: boolean;
  /** Upper bound on items that wait or are in a flush; beyond it `add` rejects. It bounds the memory when the server is slow. */
  maxPending: number;
  /** Starts the flush of an idle batcher without `maxWaitMs`. Default: setImmediate. Tests pass their own. */
  schedule?: (run: () => void) => void;
}

export class BatcherOverflowError extends Error {
  override readonly name = 'BatcherOverflowError';
}

export class BatcherClosedError extends Error {
  override readonly name = 'BatcherClosedError';
}

interface Entry<Item, Result> {
  item: Item;
  resolve(result: Result): void;
  reject(error: unknown): void;
}

export function createBatcher<Item, Result>({
  flush,
  maxItems,
  maxPending,
  maxWaitMs = 0,
  failsWaitingToo = false,
  schedule = setImmediate,
}: BatcherOptions<Item, Result>): Batcher<Item, Result> {
  let waiting: Entry<Item, Result>[] = [];
  let underWay = 0;
  /** True from the scheduling of a flush until nothing waits any more. */
  let active = false;
  /** Set while an idle batcher waits for further items. */
  let wait: NodeJS.Timeout | undefined;
  let closed = false;
  let onIdle: (() => void) | undefined;
  let idle: Promise<void> | undefined;

  function hurry(): void {
    if (wait === undefined) return;
    clearTimeout(wait);
    wait = undefined;
    void run();
  }

  async function run(): Promise<void> {
    while (waiting.length > 0) {
      const batch = waiting.length <= maxItems ? waiting : waiting.slice(0, maxItems);
      waiting = waiting.length <= maxItems ? [] : waiting.slice(maxItems);
      underWay = batch.length;
      await settle(batch);
    }
    active = false;
    onIdle?.();
  }

  async function settle(batch: readonly Entry<Item, Result>[]): Promise<void> {
    try {
      // Callers go on as soon as they are settled. By then their places must be free.
      const results = await flush(batch.map(({ item }) => item)).finally(() => {
        underWay = 0;
      });
      if (results.length !== batch.length) {
        throw new Error(`flush returned ${results.length} results for ${batch.length} items`);
      }
      batch.forEach(({ resolve, reject }, index) => {
        const result = results[index]!;
        if (result instanceof Error) reject(result);
        else resolve(result);
      });
    } catch (error) {
      const failed = failsWaitingToo ? [...batch, ...waiting.splice(0)] : batch;
      for (const { reject } of failed) reject(error);
    }
  }

  return {
    add(item) {
      if (closed) return Promise.reject(new BatcherClosedError('the batcher is closed'));
      if (waiting.length + underWay >= maxPending) {
        return Promise.reject(new BatcherOverflowError(`${maxPending} items are waiting already`));
      }
      return new Promise((resolve, reject) => {
        waiting.push({ item, resolve, reject });
        if (active) return;
        active = true;
        if (maxWaitMs > 0) wait = setTimeout(hurry, maxWaitMs);
        else schedule(() => void run());
      });
    },
    hurry,
    close() {
      closed = true;
      // No further item can join.
      hurry();
      idle ??= active
        ? new Promise((resolve) => {
            onIdle = resolve;
          })
        : Promise.resolve();
      return idle;
    },
    get size() {
      return waiting.length + underWay;
    },
  };
}
