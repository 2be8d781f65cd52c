/**
 * A payment gateway for tests, demo and measurements that behaves like the official payment processor of the Rinha de
 * Backend 2025 (github.com/zanfranceschi/rinha-de-backend-2025-payment-processor), with memory in the place of its
 * PostgreSQL. What it copies, because Payrelay's safety rests on it:
 *
 * - A payment goes through delay -> failure -> insert, in this order. Failure is judged when the delay has passed, and
 *   nobody looks whether the caller is still there: a request that timed out in the delay is charged later all the same.
 * - A known id is refused with 422 and keeps what was stored first.
 * - A caller that hangs up while it still waits for a place (429 limiter, health limiter) is dropped, never charged.
 *
 * Where it is stricter: an absent id, an amount that is not above zero or a wrong requestedAt is answered 400 (the
 * official one stores an all-zero id or a negative amount). Where it is laxer: any Content-Type is read as JSON, and a
 * path id that is no UUID is simply not found. requestedAt is returned with three decimals and Z; by its source the
 * official one reads a column without time zone and so leaves the Z away: read a missing offset as UTC.
 * `GET /admin/payments` is ours alone.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/** A payment as the gateway holds it: id in lower case, amount exact to the cent, requestedAt in ISO UTC with ms. */
export interface SimulatedPayment {
  readonly correlationId: string;
  readonly amount: number;
  readonly requestedAt: string;
}

/** Everything has the official payment processor's value by default; tests lower limits and intervals. */
export interface SimulatedGatewayOptions {
  /** Share of each amount that is charged, 0.05 = 5 %. Only the admin summary shows it. Default 0.05. */
  transactionFee?: number;
  /** What admin calls must send as `X-Rinha-Token`. Default `123`. */
  token?: string;
  /** Delay before each payment at the start. Default 0. */
  delayMs?: number;
  /** Whether payments are failed with 500 at the start. Default false. */
  failure?: boolean;
  /** Length of the window in which one health call is answered. Default 5000. */
  healthIntervalMs?: number;
  /** Payments handled at once; more wait. Default 800. */
  maxConcurrent?: number;
  /** Payments that may wait for their turn; more are answered 429. Default 500. */
  maxQueued?: number;
  /** What a 429 to a payment asks for as `Retry-After`, in seconds. Default 5. */
  retryAfterSeconds?: number;
  /** Whether `requests.receivedAt` is filled: about 200 bytes per id, so long runs turn it off. Default true. */
  recordArrivals?: boolean;
}

/** What reached `POST /payments`, live. A request counts once its body is complete, whatever its answer. */
export interface SimulatedGatewayRequests {
  readonly total: number;
  /** Being handled now: in the delay. */
  readonly inFlight: number;
  /** Waiting for one of the `maxConcurrent` places. */
  readonly queued: number;
  /** How many requests ended with this status, also when nobody was there any more to read it. */
  answered(status: number): number;
  /** When requests with this id arrived (Unix ms, oldest first); empty when there were none or `recordArrivals` is off. */
  receivedAt(correlationId: string): readonly number[];
}

/** Calls of `GET /payments/service-health`, live: to check that a whole fleet polls no more than it may. */
export interface SimulatedGatewayHealthCalls {
  readonly total: number;
  readonly queued: number;
}

export interface SimulatedGateway {
  /**
   * Resolves once connections are accepted; port 0 takes a free one. `url` has no trailing slash and can be called from
   * this machine even when the host is a wildcard. Rejects with the system's error (`EADDRINUSE`, `EACCES`).
   * After `close()` it may listen again, with the payments kept, like a processor that was restarted.
   */
  listen(port?: number, host?: string): Promise<{ url: string; port: number }>;
  /**
   * Stops like a killed processor: drops every connection, forgets the payments that are still in their delay or wait
   * for a place, rejects pending `waitFor`s. May be called again, and before `listen`; never rejects.
   */
  close(): Promise<void>;
  /** Sets delay (whole ms) and failure for requests that reach that step from now on. Throws RangeError on a bad delay. */
  set(change: { delayMs?: number; failure?: boolean }): void;
  /**
   * Resolves as soon as the predicate holds: it is asked now and after each change (received, answered, inserted, queue,
   * settings, purge). Rejects after `timeoutMs` (default 5000), when the predicate throws, and on `close()`.
   */
  waitFor(predicate: (gateway: SimulatedGateway) => boolean, timeoutMs?: number): Promise<void>;
  /** What was charged, by lower-case id, in the order of insertion. */
  readonly payments: ReadonlyMap<string, SimulatedPayment>;
  readonly requests: SimulatedGatewayRequests;
  readonly healthCalls: SimulatedGatewayHealthCalls;
}

/** The longest delay a Node timer can hold; a larger one would fire at once. */
const MAX_DELAY_MS = 2 ** 31 - 1;
/** A payment has about 120 bytes; what is larger is a mistake and must not fill the memory. */
const MAX_BODY_BYTES = 64 * 1024;
/** Kestrel's own value. Node's default of 5 s would reset pooled connections far earlier than the official gateway. */
const KEEP_ALIVE_MS = 130_000;
/** The official gateway's window in seconds, which it also names to refused payments. */
const PAYMENTS_RETRY_AFTER_S = 5;

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const ISO_TIME =
  /^(\d{4})-(\d{2})-(\d{2})(?:T(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)?)?$/;

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
  let { token = '123', delayMs = 0, failure = false } = options;
  assertDelay(delayMs);
  if (!(transactionFee >= 0 && transactionFee < Infinity)) throw new RangeError('transactionFee must be 0 or more');
  if (!(healthIntervalMs > 0)) throw new RangeError('healthIntervalMs must be above 0');
  if (!(maxConcurrent >= 1 && maxQueued >= 0)) throw new RangeError('maxConcurrent must be >= 1 and maxQueued >= 0');

  const book = createBook(transactionFee);
  const arrivals = new Map<string, number[]>();
  const answers = new Map<number, number>();
  const delays = new Set<NodeJS.Timeout>();
  const waiters = new Set<{ check(): void; reject(reason: Error): void }>();
  const places = createPlaces(maxConcurrent, maxQueued, changed);
  const healthWindow = createHealthWindow(healthIntervalMs, changed);
  let requestsTotal = 0;
  let healthTotal = 0;
  let closing: Promise<void> | undefined;

  function changed(): void {
    for (const waiter of waiters) waiter.check();
  }

  // The routes; anything else is 404. Admin calls are checked for the token first.
  function route(req: IncomingMessage, res: ServerResponse): void {
    const { method, url = '/' } = req;
    if (method === 'POST' && url === '/payments') {
      readBody(req, res, (body) => receivePayment(res, body));
      return;
    }
    const { pathname, searchParams } = URL.parse(url, 'http://gateway') ?? new URL('http://gateway');
    const isAdmin = pathname.startsWith('/admin/');
    if (isAdmin && req.headers['x-rinha-token'] !== token) send(res, 401);
    else if (isAdmin) routeAdmin(`${method} ${pathname}`, searchParams, req, res);
    else if (method === 'GET' && pathname === '/payments/service-health') answerHealth(res);
    else if (method === 'GET' && pathname.startsWith('/payments/')) answerPayment(res, pathname.slice(10));
    else send(res, 404);
  }

  function routeAdmin(call: string, query: URLSearchParams, req: IncomingMessage, res: ServerResponse): void {
    switch (call) {
      case 'GET /admin/payments-summary':
        answerSummary(res, query);
        break;
      case 'GET /admin/payments': // not in the official payment processor: the checker compares whole sets of payments
        streamJsonArray(res, book.payments.values());
        break;
      case 'PUT /admin/configurations/token':
        readBody(req, res, (body) => configureToken(res, body));
        break;
      case 'PUT /admin/configurations/delay':
        readBody(req, res, (body) => configureDelay(res, body));
        break;
      case 'PUT /admin/configurations/failure':
        readBody(req, res, (body) => configureFailure(res, body));
        break;
      case 'POST /admin/purge-payments':
        book.purge();
        sendJson(res, 200, { message: 'All payments purged.' });
        changed();
        break;
      default:
        send(res, 404);
    }
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
      answerPost(res, 429, tooMany(retryAfterSeconds));
    }
    changed();
  }

  function handlePayment(res: ServerResponse, payment: ParsedPayment | string): void {
    if (typeof payment === 'string') {
      answerPost(res, 400, preparedJson({ message: payment }));
      places.leave();
    } else if (delayMs === 0) {
      settlePayment(res, payment);
    } else {
      const timer = setTimeout(() => {
        delays.delete(timer);
        settlePayment(res, payment);
      }, delayMs);
      delays.add(timer);
    }
  }

  function settlePayment(res: ServerResponse, payment: ParsedPayment): void {
    if (failure) answerPost(res, 500);
    else if (book.insert(payment)) answerPost(res, 200, PROCESSED);
    else answerPost(res, 422, preparedJson({ message: duplicateMessage(payment.correlationId) }));
    places.leave();
  }

  function answerPost(res: ServerResponse, status: number, prepared?: PreparedBody): void {
    answers.set(status, (answers.get(status) ?? 0) + 1);
    send(res, status, prepared);
  }

  function answerHealth(res: ServerResponse): void {
    healthTotal += 1;
    // The same body with 503 while failing, as in the official source (its instructions name only 200).
    const answer = () => sendJson(res, failure ? 503 : 200, { failing: failure, minResponseTime: delayMs });
    if (!healthWindow.enter(res, answer)) send(res, 429, tooMany(Math.ceil(healthIntervalMs / 1000)));
    changed();
  }

  function answerPayment(res: ServerResponse, id: string): void {
    const payment = book.payments.get(id.toLowerCase());
    if (payment) sendJson(res, 200, payment);
    else send(res, 404);
  }

  function answerSummary(res: ServerResponse, query: URLSearchParams): void {
    const from = query.get('from');
    const to = query.get('to');
    const fromMs = from ? parseTime(from) : -Infinity;
    const toMs = to ? parseTime(to) : Infinity;
    if (fromMs === undefined || toMs === undefined) {
      sendJson(res, 400, { message: 'from and to must be ISO 8601 times' });
    } else if (from && to) {
      sendJson(res, 200, book.summarise(fromMs, toMs));
    } else {
      // The official SQL: BETWEEN from AND to OR from IS NULL OR to IS NULL. One bound alone is no bound.
      sendJson(res, 200, book.summarise(-Infinity, Infinity));
    }
  }

  function configureToken(res: ServerResponse, body: Buffer): void {
    const value = parseJsonObject(body)?.['token'];
    if (typeof value === 'string' && value !== '') {
      token = value;
      send(res, 204);
    } else {
      sendJson(res, 400, { message: 'token must be a string that is not empty' });
    }
  }

  function configureDelay(res: ServerResponse, body: Buffer): void {
    const value = parseJsonObject(body)?.['delay'];
    if (isDelay(value)) {
      sendJson(res, 200, { config: 'delay', was: delayMs, is: value });
      set({ delayMs: value });
    } else {
      sendJson(res, 400, { message: `delay must be a whole number of ms from 0 to ${MAX_DELAY_MS}` });
    }
  }

  function configureFailure(res: ServerResponse, body: Buffer): void {
    const value = parseJsonObject(body)?.['failure'];
    if (typeof value === 'boolean') {
      sendJson(res, 200, { config: 'failure', was: failure, is: value });
      set({ failure: value });
    } else {
      sendJson(res, 400, { message: 'failure must be true or false' });
    }
  }

  function set(change: { delayMs?: number; failure?: boolean }): void {
    if (change.delayMs !== undefined) assertDelay(change.delayMs);
    delayMs = change.delayMs ?? delayMs;
    failure = change.failure ?? failure;
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
      answered: (status) => answers.get(status) ?? 0,
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
        for (const waiter of waiters) waiter.reject(new Error('the simulated gateway was closed'));
      });
      return closing;
    },

    waitFor(predicate, timeoutMs = 5000) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const settled = (settle: () => void) => {
        waiters.delete(waiter);
        clearTimeout(timer);
        settle();
      };
      const waiter = {
        check() {
          try {
            if (predicate(gateway)) settled(resolve);
          } catch (error) {
            settled(() => reject(error));
          }
        },
        reject: (reason: Error) => settled(() => reject(reason)),
      };
      const timer = setTimeout(() => {
        const seen = `${requestsTotal} requests, ${book.payments.size} payments, ${healthTotal} health calls`;
        waiter.reject(new Error(`waited ${timeoutMs} ms in vain: ${predicate} (${seen})`));
      }, timeoutMs);
      waiters.add(waiter);
      waiter.check();
      return promise;
    },
  };
  return gateway;
}

/**
 * The stored payments. Beside the map, amounts and times lie in two columns of numbers, so that the summary, which the
 * test asks for while it measures, walks 1,000,000 payments in a few milliseconds and without garbage.
 */
function createBook(transactionFee: number) {
  const payments = new Map<string, SimulatedPayment>();
  const fee = toDecimal(transactionFee);
  const feeUnits = Number(fee.digits);
  let cents = new Float64Array(1024);
  let times = new Float64Array(1024);
  return {
    payments: payments as ReadonlyMap<string, SimulatedPayment>,
    /** False when the id is known: what was stored first stays. */
    insert({ correlationId, amountCents, requestedAtMs, requestedAt }: ParsedPayment): boolean {
      if (payments.has(correlationId)) return false;
      const index = payments.size;
      if (index === cents.length) {
        cents = doubled(cents);
        times = doubled(times);
      }
      cents[index] = amountCents;
      times[index] = requestedAtMs;
      payments.set(correlationId, { correlationId, amount: amountCents / 100, requestedAt });
      return true;
    },
    /** Both ends belong to the window. */
    summarise(fromMs: number, toMs: number) {
      let totalRequests = 0;
      let totalCents = 0;
      for (let index = 0; index < payments.size; index += 1) {
        const time = times[index] as number;
        if (time < fromMs || time > toMs) continue;
        totalRequests += 1;
        totalCents += cents[index] as number;
      }
      return {
        totalRequests,
        totalAmount: totalCents / 100,
        // Whole numbers up to one division at the end: 0.995, never 0.9950000000000001.
        totalFee: (totalCents * feeUnits) / 10 ** (fee.scale + 2),
        feePerTransaction: transactionFee,
      };
    },
    purge(): void {
      payments.clear();
    },
  };
}

function doubled(column: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(column.length * 2);
  larger.set(column);
  return larger;
}

/** The 429 limiter of `POST /payments`: `maxActive` run, `maxQueued` wait in order of arrival, the rest is refused. */
function createPlaces(maxActive: number, maxQueued: number, changed: () => void) {
  const queue = new Set<() => void>();
  let active = 0;
  let isAdmitting = false;
  return {
    get active() {
      return active;
    },
    get queued() {
      return queue.size;
    },
    /** Runs it now or later; false when there is no room. Whoever runs calls `leave()` once. */
    enter(res: ServerResponse, run: () => void): boolean {
      if (active < maxActive) {
        active += 1;
        run();
        return true;
      }
      if (queue.size >= maxQueued) return false;
      waitInLine(queue, res, run, changed);
      return true;
    },
    leave(): void {
      active -= 1;
      if (isAdmitting) return; // a loop and no recursion, however long the line is
      isAdmitting = true;
      while (active < maxActive) {
        const [next] = queue;
        if (!next) break;
        active += 1;
        next();
      }
      isAdmitting = false;
      changed();
    },
    reset(): void {
      active = 0;
      queue.clear();
    },
  };
}

/**
 * The limiter of the health call: .NET's fixed window. Windows follow each other from the first call on; each answers
 * one call, two more wait for the next windows, the rest is refused.
 */
function createHealthWindow(intervalMs: number, changed: () => void) {
  const maxQueued = 2;
  const queue = new Set<() => void>();
  let startedAt: number | undefined;
  let lastUsed = -1;
  let timer: NodeJS.Timeout | undefined;
  function elapsed(): number {
    startedAt ??= performance.now();
    return performance.now() - startedAt;
  }
  const current = () => Math.floor(elapsed() / intervalMs);
  function schedule(): void {
    timer ??= setTimeout(openWindow, (lastUsed + 1) * intervalMs - elapsed());
  }
  function openWindow(): void {
    timer = undefined;
    const [next] = queue;
    if (!next) return;
    if (current() > lastUsed) {
      lastUsed = current();
      next();
    }
    // A timer may fire a fraction of a millisecond early: then the window is tried again.
    if (queue.size > 0) schedule();
    changed();
  }
  return {
    get queued() {
      return queue.size;
    },
    enter(res: ServerResponse, answer: () => void): boolean {
      if (queue.size === 0 && current() > lastUsed) {
        lastUsed = current();
        answer();
        return true;
      }
      if (queue.size >= maxQueued) return false;
      waitInLine(queue, res, answer, changed);
      schedule();
      return true;
    },
    reset(): void {
      clearTimeout(timer);
      timer = undefined;
      queue.clear();
    },
  };
}

/** Adds the request at the end of the line; a caller that hangs up leaves it. */
function waitInLine(queue: Set<() => void>, res: ServerResponse, run: () => void, changed: () => void): void {
  const leave = () => {
    queue.delete(turn);
    changed();
  };
  const turn = () => {
    queue.delete(turn);
    run();
  };
  queue.add(turn);
  res.once('close', leave);
}

interface ParsedPayment {
  correlationId: string;
  amountCents: number;
  requestedAt: string;
  requestedAtMs: number;
}

/** The payment, or in words why it is none. */
function parsePayment(body: Buffer): ParsedPayment | string {
  const data = parseJsonObject(body);
  if (!data) return 'the body must be a JSON object';
  const { correlationId, amount, requestedAt } = data;
  if (typeof correlationId !== 'string' || !UUID.test(correlationId)) return 'correlationId must be a UUID';
  if (typeof amount !== 'number' || !(amount > 0)) return 'amount must be a number above 0';
  const amountCents = roundToCents(amount);
  if (!Number.isSafeInteger(amountCents)) return 'amount is too large';
  const requestedAtMs = typeof requestedAt === 'string' ? parseTime(requestedAt) : undefined;
  if (requestedAtMs === undefined) return 'requestedAt must be an ISO 8601 time';
  return {
    correlationId: correlationId.toLowerCase(),
    amountCents,
    requestedAtMs,
    requestedAt: new Date(requestedAtMs).toISOString(),
  };
}

function parseJsonObject(body: Buffer): Record<string, unknown> | undefined {
  try {
    const data: unknown = JSON.parse(body.toString());
    return typeof data === 'object' && data !== null ? (data as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** Unix ms, what is finer is cut off; without an offset UTC is meant, as in the official TIMESTAMP column. */
function parseTime(text: string): number | undefined {
  const match = ISO_TIME.exec(text);
  if (!match) return undefined;
  const [, year, month, day, offset] = match;
  const isDateOnly = text.length === 10;
  const ms = Date.parse(offset || isDateOnly ? text : `${text}Z`);
  // Date.parse reads 30 February as 2 March.
  const daysInMonth = new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate();
  return Number.isNaN(ms) || Number(day) > daysInMonth ? undefined : ms;
}

/** Half to even on the decimal digits that were sent: 0.125 -> 12, 0.135 -> 14. */
function roundToCents(amount: number): number {
  const nearest = Math.round(amount * 100);
  if (nearest / 100 === amount) return nearest; // at most two decimals: nearly every payment
  const { digits, scale } = toDecimal(amount);
  if (scale <= 2) return Number(digits * 10n ** BigInt(2 - scale));
  const divisor = 10n ** BigInt(scale - 2);
  const quotient = digits / divisor;
  const twiceRest = (digits % divisor) * 2n;
  const roundsUp = twiceRest > divisor || (twiceRest === divisor && quotient % 2n === 1n);
  return Number(roundsUp ? quotient + 1n : quotient);
}

/** The decimal number that stands for the float: value = digits / 10 ** scale. */
function toDecimal(value: number): { digits: bigint; scale: number } {
  const [mantissa = '0', exponent = '0'] = String(value).split('e');
  const [whole = '0', fraction = ''] = mantissa.split('.');
  const digits = BigInt(whole + fraction);
  const scale = fraction.length - Number(exponent);
  return scale < 0 ? { digits: digits * 10n ** BigInt(-scale), scale: 0 } : { digits, scale };
}

function isDelay(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_DELAY_MS;
}

function assertDelay(delayMs: number): void {
  if (!isDelay(delayMs)) throw new RangeError(`delayMs must be a whole number from 0 to ${MAX_DELAY_MS}`);
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

function readBody(req: IncomingMessage, res: ServerResponse, use: (body: Buffer) => void): void {
  const chunks: Buffer[] = [];
  let size = 0;
  req.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size <= MAX_BODY_BYTES) chunks.push(chunk);
  });
  req.on('end', () => {
    if (size > MAX_BODY_BYTES) sendJson(res, 413, { message: `the body exceeds ${MAX_BODY_BYTES} bytes` });
    else use(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks));
  });
}

interface PreparedBody {
  headers: OutgoingHttpHeaders;
  body: string;
}

function preparedJson(value: unknown): PreparedBody {
  const body = JSON.stringify(value);
  return {
    headers: { 'Content-Type': 'application/json; charset=utf-8', 'Content-Length': Buffer.byteLength(body) },
    body,
  };
}

function tooMany(retryAfterSeconds: number): PreparedBody {
  const body = 'Too many requests. Try again later.';
  const headers = { 'Content-Type': 'text/plain', 'Content-Length': body.length, 'Retry-After': retryAfterSeconds };
  return { headers, body };
}

function sendJson(res: ServerResponse, status: number, value: unknown): void {
  send(res, status, preparedJson(value));
}

/** To a caller that has hung up it writes nothing, and that is no error. */
function send(res: ServerResponse, status: number, prepared?: PreparedBody): void {
  if (prepared) res.writeHead(status, prepared.headers).end(prepared.body);
  else res.writeHead(status, status === 204 ? {} : { 'Content-Length': 0 }).end();
}

/** In pieces, so that a million payments neither block the others nor stand in memory as one string. */
function streamJsonArray(res: ServerResponse, items: Iterable<unknown>): void {
  res.writeHead(200, { 'Content-Type': 'application/json; charset=utf-8' });
  pipeline(Readable.from(jsonPieces(items)), res).catch(() => res.destroy()); // the reader left
}

function* jsonPieces(items: Iterable<unknown>): Generator<string> {
  let piece = '[';
  let separator = '';
  for (const item of items) {
    piece += separator + JSON.stringify(item);
    separator = ',';
    if (piece.length < 65_536) continue;
    yield piece;
    piece = '';
  }
  yield `${piece}]`;
}
