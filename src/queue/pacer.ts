/**
 * Gives the turns of the event loop a least length: it sleeps before a turn that would begin too early. The loop then handles
 * all that has arrived meanwhile (from gateways, Redis and PostgreSQL) in one turn, as a network card moderates its
 * interrupts. At a few hundred payments a second most turns would find a single thing to do. There it halves the CPU per
 * payment, here and in the servers (rinha/NOTEBOOK.md), and delays each payment by 10 to 30 ms.
 *
 * The whole process sleeps, so a process with waiting clients must not use it. It is off without WORKER_TURN_MS. To take it
 * out, delete this file, the setting, and its uses in worker.ts, shard-worker.ts and payment-worker.ts.
 */
export interface Pacer {
  /** Call it when there is work. Turns are paced from now on, until there was none for {@link IDLE_AFTER_MS}. */
  work(): void;
  /** Ends the pacing for good. */
  close(): void;
}

/** After so long without work turns are no longer paced: an idle loop sleeps by itself until something happens. */
const IDLE_AFTER_MS = 100;

export interface PacerOptions {
  /** The least length of a turn now, in ms. Called before every sleep. 0: none. */
  turnMs(): number;
  /** Blocks the thread for so many ms. Tests pass their own. */
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
    // Never longer than a turn, whatever the clock says: a clock that steps must not stop the process.
    const restMs = Math.min(shortestMs, turnStartedAtMs + shortestMs - nowMs);
    if (restMs > 0) sleep(restMs);
    turnStartedAtMs = performance.now();
    next();
  }

  // A timer, not setImmediate. The loop runs timers, reads, and runs immediates. Only a sleep in a timer comes after the
  // immediates of the turn before, which send what that turn has read.
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
