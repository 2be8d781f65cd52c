import type { GatewayName, Payment } from '../payment.ts';

/** Why an attempt did not pay: `code` is short and stable (`http_502`, `ECONNRESET`), `detail` is for people. */
export interface AttemptCause {
  readonly code: string;
  readonly detail: string;
}

/**
 * What an attempt that did not pay says about the gateway.
 * - `not_sent`: nothing reached it; the connection failed.
 * - `no_response`: there was a connection, but no complete head of a response.
 * - `response`: something responded, and did not take the payment.
 * - `none`: nothing, the fault lies elsewhere.
 */
export type GatewayEvidence = 'not_sent' | 'no_response' | 'response' | 'none';

/** Why a gateway counts as down. */
export interface GatewayDown extends AttemptCause {
  readonly evidence: Exclude<GatewayEvidence, 'none'>;
  readonly since: Date;
}

/** What a gateway has on record under an id. */
export interface PaymentOnRecord {
  readonly amountCents: number;
  readonly requestedAt: Date;
}

/**
 * What is known after an attempt to pay. A value, not an exception: every branch is normal life.
 *
 * To send a payment to the same gateway again is always safe, because a gateway takes an id only once. Only another gateway
 * could pay it a second time. So the question about an attempt that did not pay is whether it certainly never will.
 * The verdicts on responses are in classify-attempt.ts.
 */
export type AttemptOutcome =
  /** The gateway took it. */
  | { readonly kind: 'paid'; readonly onRecord: PaymentOnRecord }
  /** The gateway already had this id, and its look-up gave what is on record. */
  | { readonly kind: 'already_paid'; readonly onRecord: PaymentOnRecord }
  /** It certainly never reached the gateway. `pool_timeout`: no connection of our own pool became free in time. */
  | ({ readonly kind: 'not_sent'; readonly reason: 'pool_timeout' | 'unreachable' } & NotPaid)
  /** The gateway responded that it did not take the payment now. */
  | ({ readonly kind: 'refused' } & NotPaid)
  /** Something responded that the payment is bad. That may be the gateway, or anybody in its place. */
  | ({ readonly kind: 'doubtful' } & NotPaid)
  /** Anything else: it may be paid already, or be paid later. */
  | ({ readonly kind: 'unknown' } & NotPaid);

interface NotPaid {
  readonly cause: AttemptCause;
  readonly evidence: GatewayEvidence;
  /** The pause that the gateway asked for, in ms, at most `MAX_RETRY_AFTER_MS`. */
  readonly retryAfterMs?: number;
}

/** An attempt that did not pay. */
export type FailedAttempt = Exclude<AttemptOutcome, { kind: 'paid' | 'already_paid' }>;

/** What the gateway has on record under an id. Only `on_record` proves anything: intermediaries respond to look-ups, too. */
export type LookUpOutcome =
  | { readonly kind: 'on_record'; readonly onRecord: PaymentOnRecord }
  | { readonly kind: 'not_found' }
  | { readonly kind: 'no_response'; readonly cause: AttemptCause };

/** What earlier attempts at this gateway mean for the next one. */
export interface AttemptHistory {
  /** No attempt at this gateway was made before, in this run or an earlier one. */
  readonly isFirst: boolean;
  /** An earlier attempt may have been paid, so a 2xx may be a replay with an earlier requestedAt. */
  readonly isUnresolved: boolean;
  /** Send over a new connection: the last response may have come from one bad backend or intermediary. */
  readonly onNewConnection: boolean;
}

export interface Gateway {
  readonly name: GatewayName;
  /** Makes one attempt, with the look-up that its verdict may need. Never rejects. */
  send(payment: Payment, history: AttemptHistory): Promise<AttemptOutcome>;
  /** Looks up what is on record. Never rejects. */
  findPayment(correlationId: string): Promise<LookUpOutcome>;
  /** Whether an attempt would get a connection of the pool at once. */
  readonly hasFreeConnection: boolean;
  /** Whether an attempt would probably end as `pool_timeout`, by the rate at which connections became free. */
  readonly wouldWaitInVain: boolean;
  /** Closes the keep-alive connections. */
  close(): void;
}
