/**
 * Keeps the turns of the event loop from being shorter than they need be, by sleeping before the next one begins. What
 * becomes ready meanwhile (answers of gateways, Redis and PostgreSQL) is read, handled and answered in one turn, as a
 * network card moderates its interrupts. At a few hundred payments a second, when most turns would find a single thing
 * to do, this halves the CPU of a payment, here and in the servers it talks to (test/bench/RESULTS.md).
 *
 * While it sleeps, the whole process does: it is not for a process that has somebody waiting.
 */
export interface Pacer {
  /** Says that there is work: turns are paced from now on, until there was none for {@link IDLE_AFTER_MS}. */
  work(): void;
  /** Leaves the loop alone from now on. */
  close(): void;
}

/** Then the loop is left alone: it sleeps by itself until something happens. */
const IDLE_AFTER_MS = 100;

export interface PacerOptions {
  /** How short a turn may be now, in ms; asked before every sleep. 0: as short as it likes. */
  turnMs(): number;
  /** Blocks the thread for so many ms; tests pass their own. */
  sleep?: (ms: number) => void;
}

export function createPacer({ turnMs, sleep = block }: PacerOptions): Pacer {
  let isPacing = false;
  let workedAtMs = 0;
  let turnStartedAtMs = 0;
  let timer: NodeJS.Timeout | undefined;
  let isClosed = false;

  function pace(): void {
    const nowMs = performance.now();
    if (nowMs - workedAtMs > IDLE_AFTER_MS) {
      isPacing = false;
      return;
    }
    const shortestMs = turnMs();
    // Never longer than a turn, whatever the clock says: a step of it must not stop the process.
    const restMs = Math.min(shortestMs, turnStartedAtMs + shortestMs - nowMs);
    if (restMs > 0) sleep(restMs);
    turnStartedAtMs = performance.now();
    next();
  }

  // By a timer, not by setImmediate: timers run before the loop reads what is ready, immediates after it, and what a turn
  // has brought about must be sent before the sleep.
  function next(): void {
    timer = setTimeout(pace, 1).unref();
  }

  return {
    work() {
      workedAtMs = performance.now();
      if (isPacing || isClosed) return;
      isPacing = true;
      turnStartedAtMs = workedAtMs;
      next();
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
    },
  };
}

const neverNotified = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));

function block(ms: number): void {
  Atomics.wait(neverNotified, 0, 0, ms);
}
