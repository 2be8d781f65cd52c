import type { PaymentWorker } from './payment-worker.ts';

/** A look at a worker that does nothing costs one command; this often is soon enough for what must never happen. */
const INTERVAL_MS = 10_000;

/** So many looks in a row without a sign of life, with payments waiting, and the worker counts as stuck. */
const LOOKS = 3;

/**
 * BullMQ workers have stopped fetching for ever after an outage of Redis, with all looking well (issues 2964, 4479, 4585).
 * The watchdog ends such a process; its supervisor starts a new one.
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
  /** While Redis is away there is nothing to fetch, and starting again would not help. */
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
    // A connection lost in the middle of the look is no sign of anything.
    look().catch(() => {
      idleLooks = 0;
    });
  }, intervalMs);
  timer.unref();
  return { close: () => clearInterval(timer) };
}
