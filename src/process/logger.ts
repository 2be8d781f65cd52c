import { createLogger as createWinston, format, type Logger, transports } from 'winston';
import { describeError } from './describe-error.ts';

export type { Logger };

/** One JSON line per event on stdout. `role` tells which process of a stack spoke. */
export function createLogger({ level, role }: { level: string; role: string }): Logger {
  return createWinston({
    level,
    defaultMeta: { role },
    format: format.combine(format.timestamp(), errorCauses(), format.json()),
    transports: [new transports.Console()],
  });
}

/** An Error under `cause` would print as `{}`: JSON does not see its fields. */
const errorCauses = format((info) => {
  if (info['cause'] instanceof Error) info['cause'] = describeError(info['cause']);
  return info;
});
