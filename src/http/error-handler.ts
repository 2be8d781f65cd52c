import type { IncomingMessage } from 'node:http';
import type { ErrorRequestHandler } from 'express';
import { InternalError, InvalidRequestError, ServiceError } from '../errors.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';

/** An outage ends when no request has failed for this time. Nothing tells an error handler about success. */
const QUIET_MS = 10_000;

/** The one place that writes error responses. */
export function errorHandler(logger: Logger): ErrorRequestHandler {
  const outage = createOutageLog(logger, {
    message: 'requests are not accepted',
    endMessage: 'requests are accepted again',
    endsAfterMs: QUIET_MS,
  });

  return (error: unknown, request, response, _next) => {
    // The client has closed the connection, so there is no one to respond to.
    if (request.destroyed && !request.complete) return;
    if (response.headersSent) {
      logger.error('failed after the response had begun', { path: request.path, cause: describeError(error) });
      response.destroy();
      return;
    }
    const { status, code, headers, details } = toServiceError(error);
    // 500 is a fault of our own, everything above it an outage.
    if (status === 500) {
      logger.error('request failed unexpectedly', { path: request.path, cause: describeError(error) });
    } else if (status > 500) {
      outage.failed({ code, detail: describeError(error) });
    }
    response.locals['errorCode'] = code;
    // We do not wait for the rest of the body, so no other request can follow on this connection.
    if (hasUnreadBody(request)) response.setHeader('Connection', 'close');
    response
      .status(status)
      .set(headers)
      .json({ error: code, ...details });
  };
}

function toServiceError(error: unknown): ServiceError {
  if (error instanceof ServiceError) return error;
  // Express and its router reject some requests by themselves: a path with a malformed %-escape, for example.
  const status = (error as { status?: unknown } | undefined)?.status;
  if (typeof status === 'number' && status >= 400 && status < 500) {
    return new InvalidRequestError([{ param: 'path', message: 'is malformed' }], { status, cause: error });
  }
  return new InternalError('unexpected', { cause: error });
}

/** A request without a body counts as incomplete until its handler returns. Its headers say that no body will come. */
function hasUnreadBody({ complete, headers }: IncomingMessage): boolean {
  return !complete && (headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0);
}
