import type { Logger } from './logger.ts';

/** Why something does not work now. `code` is one of a small closed set; `detail` is for people. */
export interface Failure {
  readonly code: string;
  readonly detail: string;
}

/**
 * The one rule for lines that come in crowds: the first of a code at once, then one a minute with the count and since
 * when, and one when it ends. During an outage that tells as much as thousands.
 */
export interface OutageLog {
  /** @param fields are logged with the line, if this failure causes one. */
  failed(failure: Failure, fields?: Readonly<Record<string, unknown>>): void;
  /** It works again: logs one line for each code that failed before, and forgets it. */
  ended(): void;
}

export interface OutageLogOptions {
  readonly message: string;
  readonly endMessage: string;
  readonly level?: 'warn' | 'error';
  /**
   * Ends a code by itself when it has not failed for so long. For what nobody reports the success of.
   * Infinity (the default): only `ended()` ends it.
   */
  readonly endsAfterMs?: number;
}

const REPEAT_MS = 60_000;

interface Outage {
  readonly since: Date;
  readonly startedAtMs: number;
  count: number;
  lastAtMs: number;
  nextLineAtMs: number;
  timer: NodeJS.Timeout | undefined;
}

export function createOutageLog(
  logger: Logger,
  { message, endMessage, level = 'warn', endsAfterMs = Number.POSITIVE_INFINITY }: OutageLogOptions,
): OutageLog {
  const outages = new Map<string, Outage>();

  function end(code: string, { since, startedAtMs, count, timer }: Outage): void {
    clearTimeout(timer);
    outages.delete(code);
    logger.info(endMessage, { code, count, since, lastedMs: Math.round(performance.now() - startedAtMs) });
  }

  /** One timer a code, not one a failure: it looks again when the last failure is not old enough. */
  function endWhenQuiet(code: string, outage: Outage, waitMs: number): void {
    outage.timer = setTimeout(() => {
      const leftMs = outage.lastAtMs + endsAfterMs - performance.now();
      if (leftMs <= 0) end(code, outage);
      else endWhenQuiet(code, outage, leftMs);
    }, waitMs).unref();
  }

  return {
    failed({ code, detail }, fields = {}) {
      const nowMs = performance.now();
      let outage = outages.get(code);
      if (outage === undefined) {
        outage = {
          since: new Date(),
          startedAtMs: nowMs,
          count: 0,
          lastAtMs: nowMs,
          nextLineAtMs: nowMs,
          timer: undefined,
        };
        outages.set(code, outage);
        if (Number.isFinite(endsAfterMs)) endWhenQuiet(code, outage, endsAfterMs);
      }
      outage.count += 1;
      outage.lastAtMs = nowMs;
      if (nowMs < outage.nextLineAtMs) return;
      outage.nextLineAtMs = nowMs + REPEAT_MS;
      logger[level](message, { ...fields, code, cause: detail, count: outage.count, since: outage.since });
    },
    ended() {
      for (const [code, outage] of outages) end(code, outage);
    },
  };
}
