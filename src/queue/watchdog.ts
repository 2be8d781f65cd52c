import type { PaymentWorker } from './payment-worker.ts';

/** A look costs one command, and only while the worker is idle. */
const INTERVAL_MS = 10_000;

/** The worker counts as stuck when it did nothing for so many looks in a row while payments were waiting. */
const LOOKS = 3;

/**
 * After an outage of Redis, BullMQ workers have stopped fetching for ever without an error (issues 2964, 4479, 4585). The
 * watchdog ends such a process, and its supervisor starts a new one.
 */
export function startWatchdog({
  worker,
  countWaiting,
  isConnected,
  onStuck,
  intervalMs = INTERVAL_MS,
}: {
  worker: Pick<PaymentWorker, 'inFlight' | 'finished'>;
  countWaiting: () => Promise<number>;
  /** While Redis is down a restart would not help. */
  isConnected: () => boolean;
  onStuck: (reason: string) => void;
  intervalMs?: number;
}): { close(): void } {
  let finishedBefore = worker.finished;
  let idleLooks = 0;

  async function look(): Promise<void> {
    const isIdle = worker.inFlight === 0 && worker.finished === finishedBefore;
    finishedBefore = worker.finished;
    if (!isIdle || !isConnected() || (await countWaiting()) === 0) {
      idleLooks = 0;
      return;
    }
    idleLooks += 1;
    if (idleLooks === LOOKS) {
      onStuck(`payments are waiting and none was taken for ${(LOOKS * intervalMs) / 1000} s`);
    }
  }

  const timer = setInterval(() => {
    // A look that failed proves nothing.
    look().catch(() => {
      idleLooks = 0;
    });
  }, intervalMs);
  timer.unref();
  return { close: () => clearInterval(timer) };
}
