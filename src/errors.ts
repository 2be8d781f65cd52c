/** `details` are merged over `{ error: code }`, so a body that a client prescribes can replace `error`. */
export interface ServiceErrorOptions extends ErrorOptions {
  /** Seconds after which a retry makes sense. Becomes the header `Retry-After`. */
  readonly retryAfterSeconds?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly details?: Readonly<Record<string, unknown>>;
}

/**
 * An error that the HTTP API responds with: `status`, `headers`, and the body `{ error: code, ...details }`. Routes throw
 * it, error-handler.ts writes the response. `code` is stable. The message goes to the log only, so it may describe the
 * inside of the service.
 */
export abstract class ServiceError extends Error {
  abstract readonly code: string;
  abstract readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(message: string, options: ServiceErrorOptions = {}) {
    super(message, options);
    this.name = new.target.name;
    const { retryAfterSeconds, headers = {}, details = {} } = options;
    this.headers = retryAfterSeconds === undefined ? headers : { ...headers, 'Retry-After': `${retryAfterSeconds}` };
    this.details = details;
  }
}

/** The queue has as many payments as `PAYMENT_QUEUE_MAX_SIZE` allows. This payment was certainly not stored. */
export class QueueFullError extends ServiceError {
  readonly code = 'queue_full';
  readonly status = 503;
}

/** Redis gave no usable reply in time. The payment may have been stored; posting the same id again is safe. */
export class QueueUnavailableError extends ServiceError {
  readonly code = 'queue_unavailable';
  readonly status = 503;
}

/** This process already has its maximum of such requests under way. The request had no effect; a retry is safe. */
export class BusyError extends ServiceError {
  readonly code = 'busy';
  readonly status = 503;
}

/** PostgreSQL gave no usable response in time. Most callers go on without it; a purge and a retry respond with this error. */
export class LedgerUnavailableError extends ServiceError {
  readonly code = 'ledger_unavailable';
  readonly status = 503;
  constructor(message: string, options?: ErrorOptions) {
    super(message, { ...options, retryAfterSeconds: 1 });
  }
}

/** All our own connections to PostgreSQL stayed in use while we waited for one. PostgreSQL itself may be well. */
export class PoolBusyError extends LedgerUnavailableError {}

/** The body is not a JSON text. */
export class InvalidJsonError extends ServiceError {
  readonly code = 'invalid_json';
  readonly status = 400;
}

/** The body is above the limit. The rest of it is not read. */
export class PayloadTooLargeError extends ServiceError {
  readonly code = 'payload_too_large';
  readonly status = 413;
}

/** One fault of a request, named by its parameter. */
export interface ParameterFault {
  readonly param: string;
  readonly message: string;
}

/** The request is readable, but not acceptable. `faults` lists everything wrong with it. */
export class InvalidRequestError extends ServiceError {
  readonly code = 'invalid_request';
  readonly status: number;
  readonly faults: readonly ParameterFault[];
  constructor(
    faults: readonly ParameterFault[],
    { status = 400, ...options }: ErrorOptions & { status?: number } = {},
  ) {
    super(faults.map(({ param, message }) => `${param} ${message}`).join('; '), {
      ...options,
      details: { errors: faults },
    });
    this.status = status;
    this.faults = faults;
  }
}

/** The request has no valid credentials. `challenge` says which scheme the route accepts. */
export class UnauthorizedError extends ServiceError {
  readonly code = 'unauthorized';
  readonly status = 401;
  constructor(challenge: string) {
    super('the credentials are missing or wrong', { headers: { 'WWW-Authenticate': challenge } });
  }
}

/** There were too many wrong logins within a second, and this is one more. The right login is never answered so. */
export class TooManyLoginsError extends ServiceError {
  readonly code = 'too_many_logins';
  readonly status = 429;
  constructor() {
    super('too many wrong logins', { retryAfterSeconds: 1 });
  }
}

/** The credentials are valid, but the request is not trusted. */
export class ForbiddenError extends ServiceError {
  readonly code = 'forbidden';
  readonly status = 403;
}

/** There is no such path. */
export class NotFoundError extends ServiceError {
  readonly code = 'not_found';
  readonly status = 404;
}

/** The path exists, but not with this method. `allowed` lists its methods. */
export class MethodNotAllowedError extends ServiceError {
  readonly code = 'method_not_allowed';
  readonly status = 405;
  constructor(allowed: readonly string[]) {
    super(`only ${allowed.join(', ')} here`, { headers: { Allow: allowed.join(', ') } });
  }
}

/** The operator's change contradicts the present state. `details` are the body that the operator's page reads. */
export class ConflictError extends ServiceError {
  readonly code = 'conflict';
  readonly status = 409;
}

/** A fault of our own. The client learns nothing about it. */
export class InternalError extends ServiceError {
  readonly code = 'internal_error';
  readonly status = 500;
}
