/**
 * Group commit: items that arrive while a flush is under way travel together in the next one.
 *
 * An idle batcher flushes once the event loop has read what is readable now, so that requests which arrived together
 * share a batch, and a lone item waits for nothing. With `maxWaitMs` it waits longer, until that time is over or
 * {@link Batcher.hurry} says that nobody can join any more. One flush runs at a time; under load the batch grows by itself
 * to what one round trip brings in.
 */
export interface Batcher<Item, Result> {
  /**
   * Resolves with the result of this very item once the flush that carried it is done.
   * Rejects with the item's own error, or with the flush's when the flush failed as a whole;
   * with {@link BatcherOverflowError} when too many wait, with {@link BatcherClosedError} after `close()`.
   */
  add(item: Item): Promise<Result>;
  /** Ends a wait for company: the caller knows that nobody who could join is on the way. Does nothing where none waits. */
  hurry(): void;
  /** Refuses new items, flushes those accepted, and resolves when the last of them is settled. May be called again. */
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
   * How long an idle batcher waits for company before it flushes, unless `hurry` ends the wait. Default 0: not at all. It
   * trades latency for fewer and larger batches where arrivals are sparse; while a flush is under way, what arrives has
   * company anyway.
   */
  maxWaitMs?: number;
  /**
   * When a flush fails as a whole, whether those who wait fail with it, unsent. For a far side that hangs: each of their
   * flushes would have to run into its time-out before they are told. Default: they get their own flush.
   */
  failsWaitingToo?: boolean;
  /** Items that may wait or be under way; beyond it `add` rejects. It bounds the memory when the far side is slow. */
  maxPending: number;
  /** When to start a flush after the batcher was idle, without `maxWaitMs`; tests pass their own. Default: setImmediate. */
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
  /** Set while an idle batcher waits for company. */
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
      // Callers go on as soon as they are settled, and their places are free by then.
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
        else schedule(run);
      });
    },
    hurry,
    close() {
      closed = true;
      // Nobody can join any more.
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
