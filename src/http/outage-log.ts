import { describeError, type Logger } from '../logger.ts';

const OUTAGE_LOG_INTERVAL_MS = 1_000;

/** Warns of errors that come in crowds: during an outage one line a second, with their number, tells as much as thousands. */
export function createOutageLog(logger: Logger, message: string) {
  const kinds = new Map<string, { nextAtMs: number; suppressed: number }>();
  return {
    note(error: Error & { code: string }) {
      const kind = kinds.get(error.code) ?? { nextAtMs: 0, suppressed: 0 };
      kinds.set(error.code, kind);
      const nowMs = performance.now();
      if (nowMs < kind.nextAtMs) {
        kind.suppressed += 1;
        return;
      }
      logger.warn(message, {
        code: error.code,
        others: kind.suppressed,
        cause: describeError(error),
      });
      kind.nextAtMs = nowMs + OUTAGE_LOG_INTERVAL_MS;
      kind.suppressed = 0;
    },
  };
}
