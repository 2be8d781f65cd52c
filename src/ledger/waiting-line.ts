import { BusyError } from '../errors.ts';

/** Limits how many calls run at once. The others wait for their turn, in the order of their arrival. */
export interface WaitingLine {
  /**
   * Runs `work` when it is its turn.
   * @throws BusyError at once, without running `work`, when too many calls run or wait.
   * @throws the error of another call, without running `work`, when `failsWaitingToo` says that it concerns waiting calls too.
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
  /** Upper bound on calls that run or wait. It bounds the wait of the last call. */
  maxUnderWay: number;
  /** Whether waiting calls would fail in the same way. If so they fail at once, instead of one after the other. */
  failsWaitingToo: (error: unknown) => boolean;
}): WaitingLine {
  let running = 0;
  let waiting: PromiseWithResolvers<void>[] = [];

  function leave(): void {
    const next = waiting.shift();
    // Hands the place to the next call, so that a new call cannot take it first.
    if (next) next.resolve();
    else running -= 1;
  }

  return {
    async run(work) {
      if (running + waiting.length >= maxUnderWay) {
        throw new BusyError(`${maxUnderWay} calls run or wait already`, { retryAfterSeconds: 1 });
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
