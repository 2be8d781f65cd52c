import { type ClientRequest, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Duplex } from 'node:stream';
import { urlToHttpOptions } from 'node:url';
import { promisify } from 'node:util';
import { brotliDecompress, gunzip, inflate } from 'node:zlib';
import got, { type Got, type RequestFunction } from 'got';
import type { GatewayConfig } from '../config.ts';
import type { GatewayName, Payment } from '../payment.ts';
import type { Logger } from '../process/logger.ts';
import {
  causeOfResponse,
  classifyFailure,
  classifyResponse,
  type GatewayResponse,
  MAX_BODY_BYTES,
  parseRetryAfter,
  type VerdictRules,
} from './classify-attempt.ts';
import { type ConnectionPool, createConnectionPool } from './connection-pool.ts';
import type {
  AttemptCause,
  AttemptHistory,
  AttemptOutcome,
  Gateway,
  GatewayEvidence,
  LookUpOutcome,
} from './gateway.ts';
import { createGatewayAgent, type GatewayAgent } from './gateway-agent.ts';
import { createKnownBodies, type KnownBodies } from './known-bodies.ts';
import { parsePaymentOnRecord } from './on-record.ts';

/** What came of one request. */
type Exchange =
  | ({ readonly kind: 'response'; readonly retryAfter: string | undefined } & GatewayResponse)
  | { readonly kind: 'failed'; readonly cause: AttemptCause; readonly evidence: GatewayEvidence };

/** A gateway over HTTP with keep-alive connections. Primary and fallback are two instances. */
export class HttpGateway implements Gateway {
  readonly name: GatewayName;
  /** For people: without user and password. */
  readonly url: string;
  readonly #client: Got;
  readonly #paymentsUrl: string;
  readonly #agent: GatewayAgent;
  readonly #pool: ConnectionPool;
  readonly #poolTimeoutMs: number;
  readonly #rules: VerdictRules;
  readonly #knownBodies: KnownBodies;

  constructor(name: GatewayName, config: GatewayConfig, logger: Pick<Logger, 'error'>) {
    const { url, poolSize, poolTimeoutMs, receiveTimeoutMs, connectionMaxAgeMs, empty500 } = config;
    this.name = name;
    this.url = withoutCredentials(url);
    this.#paymentsUrl = `${url}/payments`;
    this.#poolTimeoutMs = poolTimeoutMs;
    this.#rules = { empty500 };
    this.#pool = createConnectionPool({ size: poolSize, timeoutMs: poolTimeoutMs });
    this.#agent = createGatewayAgent({ poolSize, connectionMaxAgeMs });
    this.#knownBodies = createKnownBodies((body) =>
      logger.error('a response that stood for payments is no proof any more', {
        gateway: name,
        body: body.slice(0, 200),
      }),
    );
    this.#client = got.extend({
      agent: this.#agent.kept,
      timeout: { request: receiveTimeoutMs },
      // Retrying belongs to the job, where it is visible; a redirect would send the payment to a place nobody named.
      retry: { limit: 0 },
      followRedirect: false,
      throwHttpErrors: false,
      // By the limit below, which got does not have.
      decompress: false,
      request: requestTo(new URL(url)),
    });
  }

  get hasFreeConnection(): boolean {
    return this.#pool.hasFreePlace;
  }

  get wouldWaitInVain(): boolean {
    return this.#pool.wouldWaitInVain;
  }

  async send(payment: Payment, history: AttemptHistory): Promise<AttemptOutcome> {
    if (!(await this.#pool.acquire())) {
      const detail = `no connection to the ${this.name} gateway became free within ${this.#poolTimeoutMs} ms`;
      return { kind: 'not_sent', reason: 'pool_timeout', evidence: 'none', cause: { code: 'pool_timeout', detail } };
    }
    try {
      const requestedAt = new Date();
      const exchange = await this.#exchange('POST', this.#paymentsUrl, {
        body: JSON.stringify({
          correlationId: payment.correlationId,
          amount: payment.amountCents / 100,
          requestedAt: requestedAt.toISOString(),
        }),
        onNewConnection: history.onNewConnection,
      });
      return await this.#judge(exchange, payment, requestedAt, history);
    } finally {
      this.#pool.release();
    }
  }

  async findPayment(correlationId: string): Promise<LookUpOutcome> {
    if (!(await this.#pool.acquire())) {
      return { kind: 'no_response', cause: { code: 'pool_timeout', detail: 'no connection of the pool was free' } };
    }
    try {
      return await this.#lookUp(correlationId);
    } finally {
      this.#pool.release();
    }
  }

  close(): void {
    this.#agent.close();
  }

  async #judge(
    exchange: Exchange,
    payment: Payment,
    requestedAt: Date,
    history: AttemptHistory,
  ): Promise<AttemptOutcome> {
    if (exchange.kind === 'failed') {
      const { cause, evidence } = exchange;
      return evidence === 'not_sent'
        ? { kind: 'not_sent', reason: 'unreachable', cause, evidence }
        : { kind: 'unknown', cause, evidence };
    }
    const verdict = classifyResponse(exchange, this.#rules);
    const cause = causeOfResponse(exchange);
    // 429 and 503 are the two that RFC 6585 and RFC 9110 give the header to.
    const retryAfterMs = [429, 503].includes(exchange.statusCode) ? parseRetryAfter(exchange.retryAfter) : undefined;
    const notPaid = { cause, evidence: 'response', ...(retryAfterMs !== undefined && { retryAfterMs }) } as const;
    switch (verdict) {
      case 'paid_if_known':
        return this.#paidIfKnown(exchange.body!, payment, requestedAt, history, cause);
      case 'ask': {
        const found = await this.#lookUp(payment.correlationId);
        return found.kind === 'on_record'
          ? { kind: 'paid', onRecord: found.onRecord }
          : unproven(cause, found, 'response');
      }
      case 'already_paid': {
        const found = await this.#lookUp(payment.correlationId);
        if (found.kind !== 'on_record') return unproven(cause, found, 'none');
        return { kind: 'already_paid', onRecord: found.onRecord };
      }
      case 'refused':
      case 'doubtful':
      case 'unknown':
        return { kind: verdict, ...notPaid };
    }
  }

  async #paidIfKnown(
    body: string,
    { correlationId, amountCents }: Payment,
    requestedAt: Date,
    history: AttemptHistory,
    cause: AttemptCause,
  ): Promise<AttemptOutcome> {
    const judged = await this.#knownBodies.judge(
      { body, correlationId, requestedAt: requestedAt.toISOString() },
      async () => {
        const found = await this.#lookUp(correlationId);
        if (found.kind !== 'on_record') return { result: 'not_there', found } as const;
        const isConfirmed = history.isFirst && found.onRecord.requestedAt.getTime() === requestedAt.getTime();
        return { result: isConfirmed ? 'confirmed' : 'on_record', found } as const;
      },
    );
    if (judged.result !== 'known') {
      const { found } = judged;
      return found.kind === 'on_record'
        ? { kind: 'paid', onRecord: found.onRecord }
        : unproven(cause, found, 'response');
    }
    if (!history.isUnresolved) {
      return { kind: 'paid', onRecord: { amountCents, requestedAt } };
    }
    // Paid, but a gateway may replay its first response, and then has the requestedAt of an earlier attempt.
    const found = await this.#lookUp(correlationId);
    return found.kind === 'on_record' ? { kind: 'paid', onRecord: found.onRecord } : unproven(cause, found, 'none');
  }

  /** Within the place in the pool that its attempt has: a second one could be waited for in a circle. */
  async #lookUp(correlationId: string): Promise<LookUpOutcome> {
    const exchange = await this.#exchange('GET', `${this.#paymentsUrl}/${correlationId}`, {});
    if (exchange.kind === 'failed') return { kind: 'no_response', cause: exchange.cause };
    const { statusCode, body } = exchange;
    const onRecord = statusCode === 200 && body !== undefined ? parsePaymentOnRecord(body, correlationId) : undefined;
    if (onRecord !== undefined) return { kind: 'on_record', onRecord };
    return statusCode === 404 ? { kind: 'not_found' } : { kind: 'no_response', cause: causeOfResponse(exchange) };
  }

  /**
   * One request and its response. Never rejects.
   * By got's stream interface: its promises cost a worker an eighth of all its CPU (test/bench/RESULTS.md).
   */
  #exchange(
    method: 'POST' | 'GET',
    url: string,
    { body, onNewConnection = false }: { body?: string; onNewConnection?: boolean },
  ): Promise<Exchange> {
    return new Promise((resolve) => {
      const stream =
        body === undefined
          ? this.#client.stream(url, { method, headers: NO_CACHE })
          : this.#client.stream(url, {
              method,
              body,
              headers: JSON_TYPE,
              ...(onNewConnection && { agent: this.#agent.fresh }),
            });
      let request: ClientRequest | undefined;
      const chunks: Buffer[] = [];
      let size = 0;
      // The first of these calls decides; what comes after it of the same exchange has no effect.
      const fail = (error: Error) =>
        resolve({ kind: 'failed', ...classifyFailure(this.#agent.phaseOf(request), error) });
      const respond = (usable: Buffer | undefined) => {
        const { statusCode, headers } = stream.response!;
        const retryAfter = headers['retry-after'];
        const text = usable === undefined ? undefined : decode(usable, headers);
        if (typeof text !== 'object') resolve({ kind: 'response', statusCode, retryAfter, body: text });
        else text.then((decoded) => resolve({ kind: 'response', statusCode, retryAfter, body: decoded }));
      };
      // What follows a 101 on its connection is no HTTP, or the response to this request: neither may meet another one.
      const refuseSwitch = () => {
        const code = `http_${SWITCHING_PROTOCOLS}`;
        fail(Object.assign(new Error('the server switched to another protocol'), { code }));
        stream.destroy();
      };
      stream.once('request', (made: ClientRequest) => {
        request = made;
        // got listens to this event, so Node leaves the connection to it; got passes it on and never ends.
        made.once('upgrade', (_response, socket: Duplex) => {
          socket.destroy();
          refuseSwitch();
        });
      });
      // A 101 that names no protocol.
      stream.once('response', ({ statusCode }: { statusCode: number }) => {
        if (statusCode === SWITCHING_PROTOCOLS) refuseSwitch();
      });
      stream.on('data', (chunk: Buffer) => {
        size += chunk.length;
        if (size <= MAX_BODY_BYTES) {
          chunks.push(chunk);
          return;
        }
        respond(undefined);
        stream.destroy();
      });
      stream.on('end', () => {
        respond(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks));
        setImmediate(letGo, stream);
      });
      stream.on('error', (error: Error) => (stream.response === undefined ? fail(error) : respond(undefined)));
    });
  }
}

const SWITCHING_PROTOCOLS = 101;

/** For the log: a URL may carry user and password. */
function withoutCredentials(url: string): string {
  const { origin, pathname } = new URL(url);
  return `${origin}${pathname === '/' ? '' : pathname}`;
}

const JSON_TYPE = { 'content-type': 'application/json' };
/** A cache between us would tell what was on record, or not, some time ago. */
const NO_CACHE = { 'cache-control': 'no-cache' };

/** A response said something that its look-up does not bear out. */
function unproven(cause: AttemptCause, found: LookUpOutcome, evidence: GatewayEvidence): AttemptOutcome {
  const why = found.kind === 'no_response' ? found.cause.detail : 'HTTP 404';
  return {
    kind: 'unknown',
    evidence,
    cause: { code: cause.code, detail: `${cause.detail}; the look-up of the payment gave ${why}` },
  };
}

type Decompress = (bytes: Buffer, options: { maxOutputLength: number }) => Promise<Buffer>;

/** A Map, because the name comes from the network: an object would also find `constructor`. */
const DECOMPRESS: ReadonlyMap<string, Decompress> = new Map([
  ['gzip', promisify<Buffer, { maxOutputLength: number }, Buffer>(gunzip)],
  ['x-gzip', promisify<Buffer, { maxOutputLength: number }, Buffer>(gunzip)],
  ['deflate', promisify<Buffer, { maxOutputLength: number }, Buffer>(inflate)],
  ['br', promisify<Buffer, { maxOutputLength: number }, Buffer>(brotliDecompress)],
]);

/** The text of a body, at once where nothing has compressed it. Undefined (or a promise of it) when it is not usable. */
function decode(bytes: Buffer, headers: IncomingHttpHeaders): string | undefined | Promise<string | undefined> {
  const encoding = headers['content-encoding']?.trim().toLowerCase() ?? 'identity';
  if (bytes.length === 0) return hasProvenEnd(headers) ? '' : undefined;
  if (encoding === 'identity') return bytes.toString();
  return DECOMPRESS.get(encoding)?.(bytes, { maxOutputLength: MAX_BODY_BYTES }).then(String, () => undefined);
}

/**
 * Whether an empty body is certainly complete. Without a length or chunks it lasts until the connection ends, and then a
 * lost connection looks the same (RFC 9112, 6.3). A body that is JSON proves its end by itself.
 */
function hasProvenEnd(headers: IncomingHttpHeaders): boolean {
  return headers['content-length'] !== undefined || /\bchunked\s*$/i.test(headers['transfer-encoding'] ?? '');
}

/**
 * Has Node make got's requests with what they need. got hands over some thirty options, most of them unset, and Node copies
 * them for every request: a fifth of the memory of a call (test/bench/RESULTS.md).
 */
function requestTo(base: URL): RequestFunction {
  const send = base.protocol === 'https:' ? httpsRequest : httpRequest;
  const { hostname, port } = urlToHttpOptions(base);
  return ({ pathname, search }, { method, headers, agent }, onResponse) =>
    send({ hostname, port, path: pathname + search, method, headers, agent }, onResponse);
}

/**
 * Ends an exchange whose response has been read, and takes from it all that it refers to. V8 may allocate a closure that is
 * assigned to a property in the old generation, Node 24 has such a closure in its writable streams, and it refers to the
 * stream: so what hangs on got's stream, some 12 KB a payment, can outlive the quick collections and must then be marked and
 * swept (test/bench/RESULTS.md).
 */
function letGo(exchange: Duplex): void {
  // The gateway has responded before it had read: got still has to do with the request.
  if (!exchange.writableFinished) return;
  exchange.once('close', () => {
    for (const [key, value] of Object.entries(exchange)) {
      if (typeof value === 'object' || typeof value === 'function') Reflect.set(exchange, key, undefined);
    }
  });
  exchange.destroy();
}
