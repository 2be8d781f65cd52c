import { timingSafeEqual } from 'node:crypto';
import type { RequestHandler } from 'express';
import { ForbiddenError, UnauthorizedError } from '../../errors.ts';

export interface Credentials {
  readonly user: string;
  readonly password: string;
}

/** Sent with a 401. The realm is what a browser shows when it asks for the password. */
const CHALLENGE = 'Basic realm="Payrelay", charset="UTF-8"';

/**
 * Admits the operator, by HTTP basic auth.
 *
 * A browser adds its basic auth also to requests that other sites make it send. Such a request names another site as its
 * Origin. It may read, because the other site cannot see the response, but change nothing.
 * @throws UnauthorizedError for anybody else, and ForbiddenError for a change that another site has made a browser send.
 */
export function operatorAuth({ user, password }: Credentials): RequestHandler {
  const expected = `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
  return (request, _response, next) => {
    if (!isEqual(request.headers.authorization ?? '', expected)) throw new UnauthorizedError(CHALLENGE);
    const { origin, host } = request.headers;
    const changesNothing = request.method === 'GET' || request.method === 'HEAD';
    if (!changesNothing && origin !== undefined && URL.parse(origin)?.host !== host) {
      throw new ForbiddenError('another site has sent this change');
    }
    next();
  };
}

function isEqual(given: string, expected: string): boolean {
  const a = Buffer.from(given);
  const b = Buffer.from(expected);
  return a.length === b.length && timingSafeEqual(a, b);
}
