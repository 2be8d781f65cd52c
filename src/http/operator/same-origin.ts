import type { IncomingHttpHeaders } from 'node:http';
import type { RequestHandler } from 'express';
import { ForbiddenError } from '../../errors.ts';

/**
 * Refuses a change that another site has made a browser send: the browser adds the operator's login to it, or is in a
 * network that the other site is not in. Reading is allowed, because the other site cannot see the response.
 * @throws ForbiddenError
 */
export const sameOriginOnly: RequestHandler = ({ method, headers }, _response, next) => {
  const isChange = method !== 'GET' && method !== 'HEAD';
  if (isChange && isForeign(headers)) throw new ForbiddenError('another site has sent this change');
  next();
};

/**
 * Whether a browser says that another site sent the request. Programs send none of these headers and are not foreign.
 *
 * 1. `Sec-Fetch-Site` is the browser's own comparison, so a proxy that rewrites Host does not disturb it. Browsers send it
 *    over TLS and to localhost.
 * 2. Over plain HTTP there is `Origin`. It must name our host: that of `Host`, or that of `X-Forwarded-Host` where a proxy
 *    rewrites Host. A page cannot make a browser send us X-Forwarded-Host, because we allow it in no preflight response.
 */
function isForeign(headers: IncomingHttpHeaders): boolean {
  const site = headers['sec-fetch-site'];
  // `none`: the user did it, no page.
  if (site !== undefined) return site !== 'same-origin' && site !== 'none';
  const { origin, host } = headers;
  if (origin === undefined) return false;
  const from = URL.parse(origin);
  if (from === null) return true;
  return ![host, firstOf(headers['x-forwarded-host'])].some((name) => name !== undefined && isHostOf(from, name));
}

/** Compares as URLs do: without case, and `relay.example:443` is the host of `https://relay.example`. */
function isHostOf(url: URL, host: string): boolean {
  const ours = URL.parse(`${url.protocol}//${host}`);
  return ours !== null && ours.host !== '' && ours.host === url.host;
}

/** Each proxy appends the Host that it got. The browser's is the first. */
function firstOf(list: string | string[] | undefined): string | undefined {
  return (
    String(list ?? '')
      .split(',')[0]
      ?.trim() || undefined
  );
}
