/** The signals that end the process, for one listener at a time. */
export interface Signals {
  /** From now on the signals go to `listener`. Before, a signal exits at once with 0: nothing has started yet. */
  listen(listener: (signal: NodeJS.Signals) => void): void;
}

/**
 * Repeats within this time count as one signal. npm and a terminal both pass a signal on to the whole process group, so a
 * single Ctrl-C arrives twice.
 */
const SAME_SIGNAL_MS = 1_000;

/**
 * Takes SIGINT and SIGTERM from now on. An entry calls this before it loads anything else: as PID 1 a process without a
 * handler ignores both.
 * @param processLike tests pass a stand-in
 */
export function watchSignals(processLike: Pick<NodeJS.Process, 'on' | 'exit'> = process): Signals {
  let listener: (signal: NodeJS.Signals) => void = () => processLike.exit(0);
  let countsAgainAtMs = 0;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    processLike.on(signal, () => {
      const nowMs = performance.now();
      if (nowMs < countsAgainAtMs) return;
      countsAgainAtMs = nowMs + SAME_SIGNAL_MS;
      listener(signal);
    });
  }
  return {
    listen(next) {
      listener = next;
    },
  };
}
