import type { GatewayConfig } from '../config.ts';
import type { GatewayName, Payment } from '../payment.ts';
import type { Logger } from '../process/logger.ts';
import { events } from '../telemetry/events.ts';
import { causeOfResponse, classifyResponse, parseRetryAfter, type VerdictRules } from './classify-attempt.ts';
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
import { createLeanGot, type Exchange, type SendRequest } from './lean-got.ts';
import { parsePaymentOnRecord } from './on-record.ts';

/** A gateway over HTTP with keep-alive connections. Primary and fallback are two instances. */
export class HttpGateway implements Gateway {
  readonly name: GatewayName;
  /** For people: without user and password. */
  readonly url: string;
  readonly #request: SendRequest;
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
    this.#request = createLeanGot({ url, agent: this.#agent, timeoutMs: receiveTimeoutMs });
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
      const startedAtMs = performance.now();
      const exchange = await this.#request('POST', this.#paymentsUrl, {
        body: JSON.stringify({
          correlationId: payment.correlationId,
          amount: payment.amountCents / 100,
          requestedAt: requestedAt.toISOString(),
        }),
        onNewConnection: history.onNewConnection,
      });
      this.#report(exchange, startedAtMs);
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
    // RFC 6585 and RFC 9110 define the header for these two.
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
    // It is paid. But this may be a replayed response, and then an earlier requestedAt is on record.
    const found = await this.#lookUp(correlationId);
    return found.kind === 'on_record' ? { kind: 'paid', onRecord: found.onRecord } : unproven(cause, found, 'none');
  }

  #report(exchange: Exchange, startedAtMs: number): void {
    if (!events.gatewayRequestEnded.hasSubscribers) return;
    const isResponse = exchange.kind === 'response';
    events.gatewayRequestEnded.publish({
      gateway: this.name,
      status: isResponse ? exchange.statusCode : undefined,
      errorType: !isResponse ? exchange.cause.code : exchange.body === undefined ? 'unusable_body' : undefined,
      durationMs: performance.now() - startedAtMs,
    });
  }

  /** Uses the place of its attempt in the pool. Attempts that waited for a second place could wait for each other. */
  async #lookUp(correlationId: string): Promise<LookUpOutcome> {
    const startedAtMs = performance.now();
    const exchange = await this.#request('GET', `${this.#paymentsUrl}/${correlationId}`);
    this.#report(exchange, startedAtMs);
    if (exchange.kind === 'failed') return { kind: 'no_response', cause: exchange.cause };
    const { statusCode, body } = exchange;
    const onRecord = statusCode === 200 && body !== undefined ? parsePaymentOnRecord(body, correlationId) : undefined;
    if (onRecord !== undefined) return { kind: 'on_record', onRecord };
    return statusCode === 404 ? { kind: 'not_found' } : { kind: 'no_response', cause: causeOfResponse(exchange) };
  }
}

/** For the log: a URL may carry user and password. */
function withoutCredentials(url: string): string {
  const { origin, pathname } = new URL(url);
  return `${origin}${pathname === '/' ? '' : pathname}`;
}

/** The outcome of a response that the look-up does not confirm. */
function unproven(cause: AttemptCause, found: LookUpOutcome, evidence: GatewayEvidence): AttemptOutcome {
  const why = found.kind === 'no_response' ? found.cause.detail : 'HTTP 404';
  return {
    kind: 'unknown',
    evidence,
    cause: { code: cause.code, detail: `${cause.detail}; the look-up of the payment gave ${why}` },
  };
}
