import { BusyError } from '../errors.ts';

/** Lets a few calls run at once; the others wait for their turn, in the order they came. */
export interface WaitingLine {
  /**
   * Runs `work` when it is its turn.
   * @throws BusyError at once, without running `work`, when too many are under way.
   * @throws what another call failed with, without running `work`, when that failure stands for all who wait.
   */
  run<T>(work: () => Promise<T>): Promise<T>;
}

export function createWaitingLine({
  places,
  maxUnderWay,
  failsWaitingToo,
}: {
  /** Calls that run at once. */
  places: number;
  /** Calls that run or wait, at most. Bounds how long the last of them waits. */
  maxUnderWay: number;
  /** Whether those who wait would meet the same failure. They share it then, or each would wait for its own in turn. */
  failsWaitingToo: (error: unknown) => boolean;
}): WaitingLine {
  let running = 0;
  let waiting: PromiseWithResolvers<void>[] = [];

  function leave(): void {
    const next = waiting.shift();
    // The place is handed on, so that nobody who comes now gets in between.
    if (next) next.resolve();
    else running -= 1;
  }

  return {
    async run(work) {
      if (running + waiting.length >= maxUnderWay) {
        throw new BusyError(`${maxUnderWay} are under way`, { retryAfterSeconds: 1 });
      }
      if (running < places) {
        running += 1;
      } else {
        const turn = Promise.withResolvers<void>();
        waiting.push(turn);
        await turn.promise;
      }
      try {
        return await work();
      } catch (error) {
        if (failsWaitingToo(error)) {
          const failed = waiting;
          waiting = [];
          for (const turn of failed) turn.reject(error);
        }
        throw error;
      } finally {
        leave();
      }
    },
  };
}
