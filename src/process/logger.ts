import { createLogger as createWinston, format, type Logger, transports } from 'winston';
import { describeError } from './describe-error.ts';

export type { Logger };

/** Writes one JSON line per event to stdout. `role` names the kind of process that wrote it. */
export function createLogger({ level, role }: { level: string; role: string }): Logger {
  return createWinston({
    level,
    defaultMeta: { role },
    format: format.combine(format.timestamp(), errorCauses(), format.json()),
    transports: [new transports.Console()],
  });
}

/** JSON prints an Error as `{}`, so `cause` becomes its description. */
const errorCauses = format((info) => {
  if (info['cause'] instanceof Error) info['cause'] = describeError(info['cause']);
  return info;
});
