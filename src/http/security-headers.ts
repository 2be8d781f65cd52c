import type { ErrorRequestHandler, RequestHandler, Response } from 'express';

/**
 * What every response with a body tells browsers. Without a library: helmet's defaults are for sites that are visited, and
 * these six never change.
 * No `Strict-Transport-Security`: where TLS ends is the proxy's decision.
 */
export const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  'Content-Security-Policy': "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  // Browsers that do not know frame-ancestors.
  'X-Frame-Options': 'DENY',
  'Cross-Origin-Resource-Policy': 'same-origin',
  // Payments and totals belong in no cache.
  'Cache-Control': 'no-store',
  // Not no-referrer: that makes browsers hide the Origin of a form's POST, and we would take our own page for a foreign one.
  'Referrer-Policy': 'same-origin',
};

/**
 * For the pages of bull-board. Scripts and everything else come from this node alone. Only styles may stand in the page:
 * bull-board's page and its parts bring some along.
 */
const PAGE_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "font-src 'self'",
  "connect-src 'self'",
  "worker-src 'self'",
  "base-uri 'self'",
  "form-action 'self'",
  "frame-ancestors 'none'",
].join('; ');

/** Sets the headers of a response that is data. */
export const secureData: RequestHandler = (_request, response, next) => {
  setSecurityHeaders(response);
  next();
};

/** Sets the headers of a response that may be a page. */
export const securePages: RequestHandler = (_request, response, next) => {
  setSecurityHeaders(response);
  response.setHeader('Content-Security-Policy', PAGE_POLICY);
  next();
};

/** Sets the headers of an error response. It stands before the error handler, and leaves the error to it. */
export const secureErrors: ErrorRequestHandler = (error, _request, response, next) => {
  if (!response.headersSent) setSecurityHeaders(response);
  next(error);
};

function setSecurityHeaders(response: Response): void {
  for (const [name, value] of Object.entries(SECURITY_HEADERS)) response.setHeader(name, value);
}
