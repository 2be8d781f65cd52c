import type { PaymentWorker } from './payment-worker.ts';

/** A look costs one command, and only while the worker is idle. */
const INTERVAL_MS = 10_000;

/** The worker counts as stuck after so many such looks in a row. */
const LOOKS = 3;

/** A reply that took longer came from a server that has just come back. Its worker gets its replies at the same time. */
const SLOW_REPLY_MS = 1_000;

/**
 * After an outage of Redis, BullMQ workers have stopped fetching for ever without an error (issues 2964, 4479, 4585; what is known of
 * a cluster is put right in cluster-reconnect.ts). The watchdog ends such a process, and its supervisor starts a new one. A worker is
 * stuck when it does nothing while payments wait, or asks for none, which is noticed also when other workers take them all. Each
 * shard's worker has a watchdog. While the server of the shard does not reply, a restart would not help, and would disturb the other
 * shards.
 */
export function startWatchdog({
  worker,
  countWaiting,
  isTaking,
  isConnected,
  onStuck,
  intervalMs = INTERVAL_MS,
}: {
  worker: Pick<PaymentWorker, 'inFlight' | 'finished' | 'fetches' | 'isWaitingForPlace'>;
  countWaiting: () => Promise<number>;
  /** Whether the worker was started. */
  isTaking: () => boolean;
  /** While Redis is down a restart would not help. */
  isConnected: () => boolean;
  onStuck: (reason: string) => void;
  intervalMs?: number;
}): { close(): void } {
  let { finished, fetches } = worker;
  let looksWithoutFetch = 0;
  let looksWithoutEnd = 0;
  let isLooking = false;

  function startAgain(): void {
    looksWithoutFetch = 0;
    looksWithoutEnd = 0;
  }

  async function look(): Promise<void> {
    const isAsking = worker.fetches !== fetches;
    const isIdle = worker.inFlight === 0 && worker.finished === finished && !worker.isWaitingForPlace;
    ({ finished, fetches } = worker);
    if (!isIdle || !isTaking() || !isConnected()) return startAgain();
    const askedAtMs = performance.now();
    const waiting = await countWaiting();
    if (performance.now() - askedAtMs > SLOW_REPLY_MS) return startAgain();
    const seconds = (LOOKS * intervalMs) / 1_000;
    looksWithoutFetch = isAsking ? 0 : looksWithoutFetch + 1;
    looksWithoutEnd = waiting === 0 ? 0 : looksWithoutEnd + 1;
    if (looksWithoutFetch === LOOKS) onStuck(`the worker has not asked for a payment for ${seconds} s`);
    else if (looksWithoutEnd === LOOKS) onStuck(`payments are waiting and none was taken for ${seconds} s`);
  }

  const timer = setInterval(() => {
    if (isLooking) return;
    isLooking = true;
    look()
      // A look that failed proves nothing.
      .catch(startAgain)
      .finally(() => {
        isLooking = false;
      });
  }, intervalMs);
  timer.unref();
  return { close: () => clearInterval(timer) };
}
