import { Agent as HttpAgent, request as httpRequest } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import type { Duplex } from 'node:stream';
import { urlToHttpOptions } from 'node:url';
import got, { type Got, type RequestFunction } from 'got';
import type { GatewayConfig } from '../config.ts';
import { type GatewayName, type Payment, parseAmountCents } from '../payment.ts';
import { classifyAnswer, classifyFailure, type GatewayAnswer } from './classify-attempt.ts';
import { type ConnectionPool, createConnectionPool } from './connection-pool.ts';
import type { AttemptOutcome, Gateway, HeldPayment } from './gateway.ts';

/** A gateway over HTTP with kept connections. Primary and fallback are two instances. */
export class HttpGateway implements Gateway {
  readonly name: GatewayName;
  readonly #client: Got;
  readonly #url: string;
  readonly #agents: { readonly http: HttpAgent; readonly https: HttpsAgent };
  readonly #pool: ConnectionPool;
  readonly #poolTimeoutMs: number;

  constructor(name: GatewayName, { url, poolSize, poolTimeoutMs, receiveTimeoutMs }: GatewayConfig) {
    this.name = name;
    this.#url = `${url}/payments`;
    this.#poolTimeoutMs = poolTimeoutMs;
    this.#pool = createConnectionPool({ size: poolSize, timeoutMs: poolTimeoutMs });
    const agentOptions = { keepAlive: true, maxSockets: poolSize, maxFreeSockets: poolSize };
    this.#agents = { http: new HttpAgent(agentOptions), https: new HttpsAgent(agentOptions) };
    this.#client = got.extend({
      agent: this.#agents,
      timeout: { request: receiveTimeoutMs },
      // Retrying belongs to the job, where it is visible; a redirect would send the payment to a place nobody named.
      retry: { limit: 0 },
      followRedirect: false,
      throwHttpErrors: false,
      decompress: false,
      request: requestTo(new URL(url)),
    });
  }

  async send({ correlationId, amountCents }: Payment): Promise<AttemptOutcome> {
    if (!(await this.#pool.acquire())) {
      const cause = `no connection to the ${this.name} gateway became free within ${this.#poolTimeoutMs} ms`;
      return { kind: 'not_sent', reason: 'pool_timeout', cause };
    }
    try {
      const requestedAt = new Date();
      const answer = await this.#post(
        JSON.stringify({ correlationId, amount: amountCents / 100, requestedAt: requestedAt.toISOString() }),
      );
      return classifyAnswer(answer, requestedAt);
    } catch (error) {
      return classifyFailure(error as Error);
    } finally {
      this.#pool.release();
    }
  }

  async findPayment(correlationId: string): Promise<HeldPayment | undefined> {
    if (!(await this.#pool.acquire())) return undefined;
    try {
      const { statusCode, body } = await this.#client.get(`${this.#url}/${correlationId}`);
      return statusCode === 200 ? parseHeldPayment(body) : undefined;
    } catch {
      // Whatever stood in the way, the caller's answer is the same: ask again later.
      return undefined;
    } finally {
      this.#pool.release();
    }
  }

  /** By got's stream interface: its promises cost a worker an eighth of all its CPU (test/bench/RESULTS.md). */
  #post(payload: string): Promise<GatewayAnswer> {
    return new Promise((resolve, reject) => {
      const exchange = this.#client.stream.post(this.#url, {
        headers: { 'content-type': 'application/json' },
        body: payload,
      });
      let body = '';
      exchange.setEncoding('utf8');
      exchange.on('data', (chunk: string) => {
        body += chunk;
      });
      exchange.on('end', () => {
        resolve({ statusCode: exchange.response!.statusCode, body });
        setImmediate(letGo, exchange);
      });
      exchange.on('error', reject);
    });
  }

  close(): void {
    this.#agents.http.destroy();
    this.#agents.https.destroy();
  }
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
 * Ends an exchange whose answer has been read, and takes from it all that it refers to. V8 may allocate a closure that is
 * assigned to a property in the old generation, Node 24 has such a closure in its writable streams, and it refers to the
 * stream: so what hangs on got's stream, some 12 KB a payment, can outlive the quick collections and must then be marked and
 * swept (test/bench/RESULTS.md).
 */
function letGo(exchange: Duplex): void {
  // The gateway has answered before it had read: got still has to do with the request.
  if (!exchange.writableFinished) return;
  exchange.once('close', () => {
    for (const [key, value] of Object.entries(exchange)) {
      if (typeof value === 'object' || typeof value === 'function') Reflect.set(exchange, key, undefined);
    }
  });
  exchange.destroy();
}

/** What a gateway says of a payment it holds, or undefined when it cannot be understood. */
export function parseHeldPayment(body: string): HeldPayment | undefined {
  const held: { amount?: unknown; requestedAt?: unknown } | null = JSON.parse(body);
  const amountCents = parseAmountCents(held?.amount);
  // A time without an offset is UTC: the gateway keeps UTC and may leave the Z away.
  const text = String(held?.requestedAt);
  if (!/^\d{4}-\d\d-\d\dT/.test(text)) return undefined;
  const requestedAt = new Date(/(Z|[+-]\d\d:?\d\d)$/i.test(text) ? text : `${text}Z`);
  if (amountCents === undefined || Number.isNaN(requestedAt.getTime())) return undefined;
  return { amountCents, requestedAt };
}
