/**
 * Keeps a failing gateway from being hammered, and the queue from being churned.
 *
 *   closed ──(`failureThreshold` failures in a row)──▶ open ──(`probeIntervalMs` later)──▶ probing
 *      ▲                                               ▲                                    │ │
 *      │                                               └──────────── probe failed ──────────┘ │
 *      └───────────────────────────────── probe succeeded ────────────────────────────────────┘
 *
 * closed: everyone passes. open: everyone waits here, holding its job, which costs Redis next to nothing.
 * probing: one of those waiting has been let through; its outcome decides. A success of whoever was sent before the
 * circuit opened closes it as well.
 */
export interface Circuit {
  /**
   * Waits until the caller may make one attempt, but no longer than `maxWaitMs` (Infinity: as long as it takes).
   * After `passed` and `probe` it must make the attempt and report it, with that word.
   */
  enter(maxWaitMs: number): Promise<CircuitEntry>;
  /** The attempt reached a gateway that does its work. */
  succeeded(): void;
  /** The attempt did not: refused, unreachable or no answer. */
  failed(entry: CircuitEntry, reason: CircuitFailure): void;
  /** The attempt says nothing about the gateway: no connection of ours was free. */
  neutral(entry: CircuitEntry): void;
  /** Whether `enter` would let an attempt through at once. */
  readonly isAccepting: boolean;
  /** Sends away who waits and who comes: the process is ending. */
  shutDown(): void;
  /** Why it opened; undefined while it is closed. */
  readonly openBecause: CircuitFailure | undefined;
}

export type CircuitEntry =
  | 'passed'
  | 'probe'
  /** The wait was over first. */
  | 'gave_up'
  /** It is still open, now for another reason: who waits because of the old one may want to go elsewhere. */
  | 'reason_changed'
  /** The process is ending. */
  | 'shut_down';

/** Whether the last attempt certainly never reached the gateway, or anything else went wrong with it. */
export type CircuitFailure = 'not_sent' | 'other';

export interface CircuitOptions {
  /** Failures in a row that open it. 1 would let a single reset hold up everything for a probe's time. */
  failureThreshold: number;
  /** From a failure to the next probe: the longest delay this adds to a recovery. */
  probeIntervalMs: number;
  onChange?: (state: 'open' | 'closed') => void;
}

export function createCircuit({ failureThreshold, probeIntervalMs, onChange }: CircuitOptions): Circuit {
  let state: 'closed' | 'open' | 'probing' = 'closed';
  let failures = 0;
  let openBecause: CircuitFailure | undefined;
  /** While open: the next to come or to wait may probe. */
  let probeIsDue = false;
  let isShutDown = false;
  let probeTimer: NodeJS.Timeout | undefined;
  /** A Set keeps the order of coming and forgets who has given up, both at constant cost. */
  const waiting = new Set<(entry: CircuitEntry) => void>();

  function awaitProbe(): void {
    state = 'open';
    probeIsDue = false;
    clearTimeout(probeTimer);
    probeTimer = setTimeout(() => {
      if (state !== 'open') return;
      const [next] = waiting;
      if (next) probe(next);
      else probeIsDue = true;
    }, probeIntervalMs);
    probeTimer.unref();
  }

  function release(entry: CircuitEntry): void {
    for (const proceed of [...waiting]) proceed(entry);
  }

  function probe(next: (entry: CircuitEntry) => void): void {
    state = 'probing';
    next('probe');
  }

  return {
    enter(maxWaitMs) {
      if (isShutDown) return Promise.resolve('shut_down');
      if (state === 'closed') return Promise.resolve('passed');
      if (probeIsDue && state === 'open') {
        state = 'probing';
        return Promise.resolve('probe');
      }
      if (maxWaitMs <= 0) return Promise.resolve('gave_up');
      return new Promise((resolve) => {
        const proceed = (entry: CircuitEntry) => {
          waiting.delete(proceed);
          clearTimeout(timer);
          resolve(entry);
        };
        const timer = Number.isFinite(maxWaitMs) ? setTimeout(() => proceed('gave_up'), maxWaitMs) : undefined;
        waiting.add(proceed);
      });
    },
    succeeded() {
      failures = 0;
      if (state === 'closed') return;
      state = 'closed';
      openBecause = undefined;
      onChange?.('closed');
      release('passed');
    },
    failed(entry, reason) {
      failures += 1;
      // A probe's failure decides only while nobody else's success has closed the circuit meanwhile.
      if (entry === 'probe' && state === 'probing') {
        const changed = openBecause !== reason;
        openBecause = reason;
        awaitProbe();
        if (changed) release('reason_changed');
      } else if (state === 'closed' && failures >= failureThreshold) {
        openBecause = reason;
        awaitProbe();
        onChange?.('open');
      }
    },
    neutral(entry) {
      if (entry === 'probe' && state === 'probing') awaitProbe();
    },
    shutDown() {
      isShutDown = true;
      release('shut_down');
    },
    get isAccepting() {
      return state === 'closed' || (state === 'open' && probeIsDue);
    },
    get openBecause() {
      return openBecause;
    },
  };
}
