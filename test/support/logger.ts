import type { Logger } from '../../src/process/logger.ts';

export interface LogEntry {
  readonly level: string;
  readonly message: string;
  readonly [field: string]: unknown;
}

/** A logger that keeps its entries, for tests to read. */
export function recordingLogger(): { logger: Logger; entries: LogEntry[] } {
  const entries: LogEntry[] = [];
  const at =
    (level: string) =>
    (message: string, fields: object = {}) =>
      entries.push({ level, message, ...fields });
  const logger = {
    error: at('error'),
    warn: at('warn'),
    info: at('info'),
    debug: at('debug'),
    isDebugEnabled: () => true,
    log: (level: string, message: string, fields?: object) => at(level)(message, fields),
  };
  return { logger: logger as unknown as Logger, entries };
}
