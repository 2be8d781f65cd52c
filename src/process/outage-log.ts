import type { Logger } from './logger.ts';

/** Why something fails. `code` is one of a small closed set; `detail` is for people. */
export interface Failure {
  readonly code: string;
  readonly detail: string;
}

/**
 * Limits repeated lines. Each code gets its first line at once, then one a minute with `count` and `since`, and one when the
 * outage ends.
 */
export interface OutageLog {
  /** @param fields are added to the line, if this failure causes one */
  failed(failure: Failure, fields?: Readonly<Record<string, unknown>>): void;
  /** It works again. Logs one line for each code that failed. @param fields are added to these lines */
  ended(fields?: Readonly<Record<string, unknown>>): void;
}

export interface OutageLogOptions {
  readonly message: string;
  readonly endMessage: string;
  readonly level?: 'warn' | 'error';
  /**
   * Ends the outage of a code that has not failed for this time, where nothing reports a success.
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

  function end(code: string, { since, startedAtMs, count, timer }: Outage, fields = {}): void {
    clearTimeout(timer);
    outages.delete(code);
    logger.info(endMessage, { ...fields, code, count, since, lastedMs: Math.round(performance.now() - startedAtMs) });
  }

  /** One timer per code, not one per failure: it waits again while the last failure is too recent. */
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
    ended(fields) {
      for (const [code, outage] of outages) end(code, outage, fields);
    },
  };
}
