import { hash, timingSafeEqual } from 'node:crypto';
import type { RequestHandler } from 'express';
import { TooManyLoginsError, UnauthorizedError } from '../../errors.ts';
import type { Logger } from '../../process/logger.ts';
import { createOutageLog } from '../../process/outage-log.ts';

export interface Credentials {
  readonly user: string;
  readonly password: string;
}

/** Sent with a 401. The realm is what a browser shows when it asks for the password. */
const CHALLENGE = 'Basic realm="Payrelay", charset="UTF-8"';

/** The scheme's name has no case (RFC 9110, 11.1). */
const BASIC = /^basic +([^ ]+) *$/i;

/**
 * How many wrong logins a second get a 401. A person who mistypes never meets the limit. A browser that gets a 429 does not
 * ask for another password, so a page that guesses through it stops.
 */
const WRONG_LOGINS_A_SECOND = 5;

/** Wrong logins have ended when there was none within this time. */
const QUIET_MS = 60_000;

/**
 * Admits the operator, by HTTP basic auth. The right login is let in whatever others do. So the limit keeps the log and the
 * node's CPU calm, but cannot keep a guess from being compared: the password must be long.
 * @throws UnauthorizedError for no login or a wrong one, TooManyLoginsError for wrong ones above the limit.
 */
export function operatorAuth({ user, password }: Credentials, logger: Logger): RequestHandler {
  const expected = digest(Buffer.from(`${user}:${password}`));
  const isWithinLimit = createLimit(WRONG_LOGINS_A_SECOND, 1_000);
  const wrongLogins = createOutageLog(logger, {
    message: 'wrong logins',
    endMessage: 'wrong logins ended',
    endsAfterMs: QUIET_MS,
  });

  return ({ headers: { authorization }, socket }, _response, next) => {
    // No guess: a browser asks like this before its user has typed a password.
    if (!authorization) throw new UnauthorizedError(CHALLENGE);
    if (timingSafeEqual(digest(loginOf(authorization)), expected)) return next();
    wrongLogins.failed(
      { code: 'unauthorized', detail: 'wrong user or password' },
      { remoteAddress: socket.remoteAddress },
    );
    if (!isWithinLimit()) throw new TooManyLoginsError();
    throw new UnauthorizedError(CHALLENGE);
  };
}

/** The `user:password` of a header. Empty, which is never right, when the header is malformed or of another scheme. */
function loginOf(authorization: string): Buffer {
  return Buffer.from(BASIC.exec(authorization)?.[1] ?? '', 'base64');
}

/** Digests have one length, so a comparison does not show the length of the right login. */
function digest(login: Buffer): Buffer {
  return hash('sha256', login, 'buffer');
}

/** Says true at most `count` times in any `windowMs`. */
function createLimit(count: number, windowMs: number): () => boolean {
  const times: number[] = [];
  return () => {
    const nowMs = performance.now();
    const isFull = times.length === count;
    if (isFull && nowMs - times[0]! < windowMs) return false;
    if (isFull) times.shift();
    times.push(nowMs);
    return true;
  };
}
