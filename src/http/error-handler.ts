import type { IncomingMessage } from 'node:http';
import type { ErrorRequestHandler } from 'express';
import { InvalidRequestError, LedgerUnavailableError, MethodNotAllowedError, ServiceError } from '../errors.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';

/** A refusal is over when none has been needed for so long: nobody tells an error handler of success. */
const QUIET_MS = 10_000;

/** The one place that turns an error into a status and a body. */
export function errorHandler(logger: Logger): ErrorRequestHandler {
  const outage = createOutageLog(logger, {
    message: 'requests are being refused',
    endMessage: 'requests are no longer refused',
    endsAfterMs: QUIET_MS,
  });
  const refused = (error: Error & { code: string }) =>
    outage.failed({ code: error.code, detail: describeError(error) });

  return (error: unknown, request, response, _next) => {
    // A client that went away has nothing to be answered.
    if (request.destroyed && !request.complete) return;
    if (response.headersSent) {
      logger.error('failed after the answer had begun', { path: request.path, cause: describeError(error) });
      response.destroy();
      return;
    }
    // What is left of the body is not waited for, so nothing else can follow on this connection.
    if (hasUnreadBody(request)) response.setHeader('Connection', 'close');

    if (error instanceof ServiceError) {
      if (error.retryAfterSeconds !== undefined) response.setHeader('Retry-After', error.retryAfterSeconds);
      if (error instanceof MethodNotAllowedError) response.setHeader('Allow', error.allow.join(', '));
      if (error.status >= 500) refused(error);
      const faults = error instanceof InvalidRequestError ? { errors: error.faults } : {};
      response.status(error.status).json({ error: error.code, ...faults });
      return;
    }
    if (error instanceof LedgerUnavailableError) {
      refused(error);
      response.status(503).setHeader('Retry-After', 1).json({ error: error.code });
      return;
    }
    // Express and its router refuse some requests on their own, a malformed %-escape for one.
    const status = (error as { status?: unknown } | undefined)?.status;
    if (typeof status === 'number' && status >= 400 && status < 500) {
      response.status(status).json({ error: 'invalid_request', errors: [{ param: 'path', message: 'is malformed' }] });
      return;
    }
    logger.error('request failed unexpectedly', { path: request.path, cause: describeError(error) });
    response.status(500).json({ error: 'internal_error' });
  };
}

/** A request without a body counts as incomplete until its handler is over; its headers tell that nothing will come. */
function hasUnreadBody({ complete, headers }: IncomingMessage): boolean {
  return !complete && (headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0);
}
