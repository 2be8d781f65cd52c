import { timingSafeEqual } from 'node:crypto';
import type { RequestHandler } from 'express';

export interface Credentials {
  readonly user: string;
  readonly password: string;
}

/**
 * Lets the operator through, by HTTP basic auth. Everybody else is answered 401.
 * Browsers send basic auth along with requests that other sites make them send; those carry another Origin. A change of theirs
 * is answered 403.
 */
export function operatorAuth({ user, password }: Credentials): RequestHandler {
  const expected = `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
  return (request, response, next) => {
    if (!isEqual(request.headers.authorization ?? '', expected)) {
      response.setHeader('WWW-Authenticate', 'Basic realm="Payrelay queues", charset="UTF-8"');
      response.status(401).json({ error: 'unauthorized' });
      return;
    }
    const { origin, host } = request.headers;
    const changesNothing = request.method === 'GET' || request.method === 'HEAD';
    if (!changesNothing && origin !== undefined && URL.parse(origin)?.host !== host) {
      response.status(403).json({ error: 'forbidden' });
      return;
    }
    next();
  };
}

function isEqual(given: string, expected: string): boolean {
  const a = Buffer.from(given);
  const b = Buffer.from(expected);
  return a.length === b.length && timingSafeEqual(a, b);
}
