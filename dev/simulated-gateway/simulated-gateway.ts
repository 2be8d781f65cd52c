/**
 * A payment gateway for tests, demo and measurements that behaves like the official payment processor of the Rinha de
 * Backend 2025 (github.com/zanfranceschi/rinha-de-backend-2025-payment-processor), with memory instead of its
 * PostgreSQL. It copies what Payrelay's safety rests on:
 *
 * - A payment goes through delay -> failure -> insert, in this order. The gateway decides about failure after the delay. It
 *   does not check whether the caller is still connected: a request that timed out in the delay is charged all the same.
 * - A known id gets 422, and what was stored first stays.
 * - A caller that hangs up while it waits for a place (429 limiter, health limiter) is dropped and never charged.
 *
 * It is stricter here: an absent id, an amount that is not above zero or a wrong requestedAt gets 400 (the official one
 * stores an all-zero id or a negative amount). It is laxer here: it reads any Content-Type as JSON, and does not find a path
 * id that is no UUID. It returns requestedAt with three decimals and Z. The official one reads a column without time zone, so
 * by its source there is no Z: read a missing offset as UTC. Only ours has `GET /admin/payments`.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createAdminRoute } from './admin-routes.ts';
import { createHealthWindow, createPlaces } from './limiters.ts';
import { type ParsedPayment, parsePayment } from './parse-payment.ts';
import { createBook, type SimulatedPayment } from './payment-book.ts';
import { type PreparedBody, preparedJson, readBody, send, sendJson, tooMany } from './responses.ts';
import { assertDelay, type Settings } from './settings.ts';
import { createWaiters } from './waiters.ts';

/** The defaults are the official payment processor's values. Tests lower limits and intervals. */
export interface SimulatedGatewayOptions {
  /** Share of each amount that is charged, 0.05 = 5 %. Only the admin summary shows it. Default 0.05. */
  transactionFee?: number;
  /** What admin calls must send as `X-Rinha-Token`. Default `123`. */
  token?: string;
  /** Delay before each payment at the start. Default 0. */
  delayMs?: number;
  /** Whether payments get 500 at the start. Default false. */
  failure?: boolean;
  /** Length of the window in which one health call is served. Default 5000. */
  healthIntervalMs?: number;
  /** Payments handled at once. More wait. Default 800. */
  maxConcurrent?: number;
  /** Payments that may wait for their turn. More get 429. Default 500. */
  maxQueued?: number;
  /** `Retry-After` of a 429 to a payment, in seconds. Default 5. */
  retryAfterSeconds?: number;
  /** Whether `requests.receivedAt` is filled. It takes about 200 bytes per id, so long runs turn it off. Default true. */
  recordArrivals?: boolean;
}

/** What reached `POST /payments`, live. A request counts once its body is complete, whatever its response. */
export interface SimulatedGatewayRequests {
  readonly total: number;
  /** In the delay now. */
  readonly inFlight: number;
  /** Waiting for one of the `maxConcurrent` places. */
  readonly queued: number;
  /** How many requests ended with this status, also when the caller had hung up before. */
  responded(status: number): number;
  /** When requests with this id arrived (Unix ms, oldest first). Empty when there were none or `recordArrivals` is off. */
  receivedAt(correlationId: string): readonly number[];
}

/** Calls of `GET /payments/service-health`, live. Tests check that all workers together poll no more than they may. */
export interface SimulatedGatewayHealthCalls {
  readonly total: number;
  readonly queued: number;
}

export interface SimulatedGateway {
  /**
   * Resolves once connections are accepted. Port 0 takes a free one. `url` has no trailing slash and can be called from
   * this machine even when the host is a wildcard. Rejects with the system's error (`EADDRINUSE`, `EACCES`).
   * After `close()` it may listen again with the same payments, like a processor that was restarted.
   */
  listen(port?: number, host?: string): Promise<{ url: string; port: number }>;
  /**
   * Ends like a killed processor: drops every connection, forgets the payments in their delay or waiting for a place,
   * rejects pending `waitFor`s. May be called again, and before `listen`. Never rejects.
   */
  close(): Promise<void>;
  /** Sets delay (whole ms) and failure for requests that reach the step from now on. Throws RangeError on a bad delay. */
  set(change: { delayMs?: number; failure?: boolean }): void;
  /**
   * Resolves as soon as the predicate returns true. It is called now and after each change (received, responded, inserted,
   * queue, settings, purge). Rejects after `timeoutMs` (default 5000), when the predicate throws, and on `close()`.
   */
  waitFor(predicate: (gateway: SimulatedGateway) => boolean, timeoutMs?: number): Promise<void>;
  /** What was charged, by lower-case id, in the order of insertion. */
  readonly payments: ReadonlyMap<string, SimulatedPayment>;
  readonly requests: SimulatedGatewayRequests;
  readonly healthCalls: SimulatedGatewayHealthCalls;
}

/** Kestrel's own value. Node's default of 5 s would reset pooled connections far earlier than the official gateway. */
const KEEP_ALIVE_MS = 130_000;
/** The official gateway's window in seconds. Its 429 to a payment names it, too. */
const PAYMENTS_RETRY_AFTER_S = 5;

const PROCESSED = preparedJson({ message: 'payment processed successfully' });

/**
 * Makes a gateway that does not listen yet. Throws RangeError when an option cannot work (negative delay or limit,
 * window of 0 ms, negative fee).
 */
export function createSimulatedGateway(options: SimulatedGatewayOptions = {}): SimulatedGateway {
  const {
    transactionFee = 0.05,
    healthIntervalMs = 5000,
    maxConcurrent = 800,
    maxQueued = 500,
    retryAfterSeconds = PAYMENTS_RETRY_AFTER_S,
    recordArrivals = true,
  } = options;
  const settings: Settings = {
    token: options.token ?? '123',
    delayMs: options.delayMs ?? 0,
    failure: options.failure ?? false,
  };
  assertDelay(settings.delayMs);
  if (!(transactionFee >= 0 && transactionFee < Infinity)) throw new RangeError('transactionFee must be 0 or more');
  if (!(healthIntervalMs > 0)) throw new RangeError('healthIntervalMs must be above 0');
  if (!(maxConcurrent >= 1 && maxQueued >= 0)) throw new RangeError('maxConcurrent must be >= 1 and maxQueued >= 0');

  const book = createBook(transactionFee);
  const arrivals = new Map<string, number[]>();
  const responses = new Map<number, number>();
  const delays = new Set<NodeJS.Timeout>();
  const waiters = createWaiters(
    () => `${requestsTotal} requests, ${book.payments.size} payments, ${healthTotal} health calls`,
  );
  const places = createPlaces(maxConcurrent, maxQueued, changed);
  const healthWindow = createHealthWindow(healthIntervalMs, changed);
  const routeAdmin = createAdminRoute({ book, settings, set, changed });
  let requestsTotal = 0;
  let healthTotal = 0;
  let closing: Promise<void> | undefined;

  function changed(): void {
    waiters.check();
  }

  // Anything but these routes gets 404. An admin call needs the token first.
  function route(req: IncomingMessage, res: ServerResponse): void {
    const { method, url = '/' } = req;
    if (method === 'POST' && url === '/payments') {
      readBody(req, res, (body) => receivePayment(res, body));
      return;
    }
    const { pathname, searchParams } = URL.parse(url, 'http://gateway') ?? new URL('http://gateway');
    const isAdmin = pathname.startsWith('/admin/');
    if (isAdmin && req.headers['x-rinha-token'] !== settings.token) send(res, 401);
    else if (isAdmin) routeAdmin(`${method} ${pathname}`, searchParams, req, res);
    else if (method === 'GET' && pathname === '/payments/service-health') respondToHealth(res);
    else if (method === 'GET' && pathname.startsWith('/payments/')) respondToLookUp(res, pathname.slice(10));
    else send(res, 404);
  }

  // POST /payments: place (or 429) -> body checked (400) -> delay -> failure (500) -> insert (200 or 422).
  function receivePayment(res: ServerResponse, body: Buffer): void {
    requestsTotal += 1;
    const payment = parsePayment(body);
    if (recordArrivals && typeof payment !== 'string') {
      const times = arrivals.get(payment.correlationId);
      if (times) times.push(Date.now());
      else arrivals.set(payment.correlationId, [Date.now()]);
    }
    if (!places.enter(res, () => handlePayment(res, payment))) {
      respondToPost(res, 429, tooMany(retryAfterSeconds));
    }
    changed();
  }

  function handlePayment(res: ServerResponse, payment: ParsedPayment | string): void {
    if (typeof payment === 'string') {
      respondToPost(res, 400, preparedJson({ message: payment }));
      places.leave();
    } else if (settings.delayMs === 0) {
      settlePayment(res, payment);
    } else {
      const timer = setTimeout(() => {
        delays.delete(timer);
        settlePayment(res, payment);
      }, settings.delayMs);
      delays.add(timer);
    }
  }

  function settlePayment(res: ServerResponse, payment: ParsedPayment): void {
    if (settings.failure) respondToPost(res, 500);
    else if (book.insert(payment)) respondToPost(res, 200, PROCESSED);
    else respondToPost(res, 422, preparedJson({ message: duplicateMessage(payment.correlationId) }));
    places.leave();
  }

  function respondToPost(res: ServerResponse, status: number, prepared?: PreparedBody): void {
    responses.set(status, (responses.get(status) ?? 0) + 1);
    send(res, status, prepared);
  }

  function respondToHealth(res: ServerResponse): void {
    healthTotal += 1;
    // The same body with 503 while failing, as in the official source (its instructions name only 200).
    const respond = () =>
      sendJson(res, settings.failure ? 503 : 200, { failing: settings.failure, minResponseTime: settings.delayMs });
    if (!healthWindow.enter(res, respond)) send(res, 429, tooMany(Math.ceil(healthIntervalMs / 1000)));
    changed();
  }

  function respondToLookUp(res: ServerResponse, id: string): void {
    const payment = book.payments.get(id.toLowerCase());
    if (payment) sendJson(res, 200, payment);
    else send(res, 404);
  }

  function set(change: { delayMs?: number; failure?: boolean }): void {
    if (change.delayMs !== undefined) assertDelay(change.delayMs);
    settings.delayMs = change.delayMs ?? settings.delayMs;
    settings.failure = change.failure ?? settings.failure;
    changed();
  }

  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, route);

  const gateway: SimulatedGateway = {
    payments: book.payments,
    requests: {
      get total() {
        return requestsTotal;
      },
      get inFlight() {
        return places.active;
      },
      get queued() {
        return places.queued;
      },
      responded: (status) => responses.get(status) ?? 0,
      receivedAt: (correlationId) => arrivals.get(correlationId.toLowerCase()) ?? [],
    },
    healthCalls: {
      get total() {
        return healthTotal;
      },
      get queued() {
        return healthWindow.queued;
      },
    },
    set,

    async listen(port = 0, host = '127.0.0.1') {
      await closing;
      closing = undefined;
      server.listen(port, host);
      await once(server, 'listening');
      const bound = (server.address() as AddressInfo).port;
      return { url: `http://${callableHost(host)}:${bound}`, port: bound };
    },

    close() {
      closing ??= new Promise((resolve) => {
        server.close(() => resolve()); // its only error says that the server was not running
        server.closeAllConnections();
        for (const timer of delays) clearTimeout(timer);
        delays.clear();
        places.reset();
        healthWindow.reset();
        waiters.rejectAll(new Error('the simulated gateway was closed'));
      });
      return closing;
    },

    waitFor: (predicate, timeoutMs) => waiters.waitFor(() => predicate(gateway), `${predicate}`, timeoutMs),
  };
  return gateway;
}

function duplicateMessage(correlationId: string): string {
  return `Payment could not be processed. CorrelationId already exists: ${correlationId}.`;
}
/** A host that can be called: a wildcard means this machine, an IPv6 address needs brackets. */
function callableHost(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1';
  if (host === '::') return '[::1]';
  return host.includes(':') ? `[${host}]` : host;
}
