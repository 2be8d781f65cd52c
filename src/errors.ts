/**
 * Every error the HTTP API answers with. `code` is the stable name in `{"error": code}`, `status` the HTTP status.
 * The message is for the log; the client sees it only where it tells nothing about the inside.
 */
export abstract class ServiceError extends Error {
  abstract readonly code: string;
  abstract readonly status: number;
  /** Seconds after which trying again makes sense, sent as `Retry-After`. */
  readonly retryAfterSeconds: number | undefined;

  constructor(message: string, options?: ErrorOptions & { retryAfterSeconds?: number }) {
    super(message, options);
    this.name = new.target.name;
    this.retryAfterSeconds = options?.retryAfterSeconds;
  }
}

/** The queue holds as many payments as `PAYMENT_QUEUE_MAX_SIZE` allows; this payment was certainly not stored. */
export class QueueFullError extends ServiceError {
  readonly code = 'queue_full';
  readonly status = 503;
}

/** Redis gave no usable answer in time. The payment may have been stored: posting the same id again is safe. */
export class QueueUnavailableError extends ServiceError {
  readonly code = 'queue_unavailable';
  readonly status = 503;
}

/** So many requests of this kind are under way in this process that one more would only wait. Trying again is safe. */
export class BusyError extends ServiceError {
  readonly code = 'busy';
  readonly status = 503;
}

/** The body is not a JSON text. */
export class InvalidJsonError extends ServiceError {
  readonly code = 'invalid_json';
  readonly status = 400;
}

/** The body is above the limit; the rest of it is not read. */
export class PayloadTooLargeError extends ServiceError {
  readonly code = 'payload_too_large';
  readonly status = 413;
}

/** One fault of a request, named by the parameter it is in. */
export interface ParameterFault {
  readonly param: string;
  readonly message: string;
}

/** The request is understood and refused; `faults` lists all that is wrong with it. */
export class InvalidRequestError extends ServiceError {
  readonly code = 'invalid_request';
  readonly status = 400;
  readonly faults: readonly ParameterFault[];
  constructor(faults: readonly ParameterFault[]) {
    super(faults.map(({ param, message }) => `${param} ${message}`).join('; '));
    this.faults = faults;
  }
}

/** No such path. */
export class NotFoundError extends ServiceError {
  readonly code = 'not_found';
  readonly status = 404;
}

/** The path exists, but not with this method; `allow` lists those it has. */
export class MethodNotAllowedError extends ServiceError {
  readonly code = 'method_not_allowed';
  readonly status = 405;
  readonly allow: readonly string[];
  constructor(allow: readonly string[]) {
    super(`only ${allow.join(', ')} here`);
    this.allow = allow;
  }
}

/** PostgreSQL gave no usable answer in time. Nearly every caller has its own way on; only a purge tells its client. */
export class LedgerUnavailableError extends Error {
  readonly code = 'ledger_unavailable';
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'LedgerUnavailableError';
  }
}

/** Our own connections to PostgreSQL were all in use for as long as we wait for one. PostgreSQL itself may be well. */
export class PoolBusyError extends LedgerUnavailableError {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'PoolBusyError';
  }
}
