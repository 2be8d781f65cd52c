import { hash, timingSafeEqual } from 'node:crypto';
import type { RequestHandler } from 'express';
import { UnauthorizedError } from '../errors.ts';

/** Sent with a 401. */
const CHALLENGE = 'Bearer realm="Payrelay"';

/** The scheme's name has no case (RFC 9110, 11.1). */
const BEARER = /^bearer +([^ ]+) *$/i;

/** Admits who sends the token. @throws UnauthorizedError for no token or another one */
export function bearerAuth(token: string): RequestHandler {
  const expected = hash('sha256', token, 'buffer');
  return ({ headers: { authorization = '' } }, _response, next) => {
    const sent = BEARER.exec(authorization)?.[1] ?? '';
    if (!timingSafeEqual(hash('sha256', sent, 'buffer'), expected)) throw new UnauthorizedError(CHALLENGE);
    next();
  };
}
