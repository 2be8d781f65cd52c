import { hash, timingSafeEqual } from 'node:crypto';
import type { Request, RequestHandler, Response } from 'express';
import { TooManyLoginsError, UnauthorizedError } from '../errors.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';

/** The login of one scheme of HTTP authentication. */
export interface Login {
  /** Sent with a 401: the scheme, and a realm that a browser shows when it asks for the password. */
  readonly challenge: string;
  /** What `read` must return: one of these. */
  readonly expected: readonly string[];
  /** Reads an `Authorization` header. Returns an empty login, which is never right, for a malformed one or another scheme. */
  readonly read: (authorization: string) => Buffer | string;
  /** What is wrong with a wrong login, for the log. */
  readonly fault: string;
}

/**
 * How many wrong logins a second get a 401. A person who mistypes never meets the limit. A browser that gets a 429 does not
 * ask for another password, so a page that guesses through it stops.
 */
const WRONG_LOGINS_A_SECOND = 5;

/** Wrong logins have ended when there was none within this time. */
const QUIET_MS = 60_000;

/**
 * Admits a right login, whatever others do. So the limit keeps the log and the node's CPU calm, but cannot keep a guess from
 * being compared: the login must be long.
 * @param onAdmitted gets the index of the right login, before the next handler. What it throws is the response.
 * @throws UnauthorizedError for no login or a wrong one, TooManyLoginsError for wrong ones above the limit.
 */
export function loginGuard(
  { challenge, expected, read, fault }: Login,
  logger: Logger,
  onAdmitted: (index: number, request: Request, response: Response) => void = () => {},
): RequestHandler {
  const expectedDigests = expected.map(digest);
  const isWithinLimit = createLimit(WRONG_LOGINS_A_SECOND, 1_000);
  const wrongLogins = createOutageLog(logger, {
    message: 'wrong logins',
    endMessage: 'wrong logins ended',
    endsAfterMs: QUIET_MS,
  });

  return (request, response, next) => {
    const { headers, socket } = request;
    // No guess: a browser asks like this before its user has typed a password.
    if (!headers.authorization) throw new UnauthorizedError(challenge);
    const given = digest(read(headers.authorization));
    // Compares with all of them, so that the time does not show which one is right.
    const index = expectedDigests.map((each) => timingSafeEqual(given, each)).indexOf(true);
    if (index >= 0) {
      onAdmitted(index, request, response);
      return next();
    }
    wrongLogins.failed({ code: 'unauthorized', detail: fault }, { remoteAddress: socket.remoteAddress });
    if (!isWithinLimit()) throw new TooManyLoginsError();
    throw new UnauthorizedError(challenge);
  };
}

/** Digests have one length, so a comparison does not show the length of the right login. */
function digest(login: Buffer | string): Buffer {
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
