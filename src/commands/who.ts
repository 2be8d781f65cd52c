import { hostname, userInfo } from 'node:os';

/** Who runs this command, for the trail of operators: `user@host`. */
export function whoRuns(): string {
  return `${userName()}@${hostname()}`;
}

/** A container may run as a user id without a name. */
function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return `uid-${process.getuid?.() ?? 'unknown'}`;
  }
}
