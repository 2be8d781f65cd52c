import type { GatewayName, Payment } from '../payment.ts';

/**
 * What is known after an attempt to pay. A value, not an exception: every branch is normal life.
 *
 * Repeating a payment at the same gateway is always safe, because it refuses a known id; only another gateway may pay it
 * a second time. So what matters about an attempt that did not pay is whether it is certain that it never will.
 */
export type AttemptOutcome =
  /** The gateway took it, with this requestedAt. */
  | { readonly kind: 'paid'; readonly requestedAt: Date }
  /** The gateway has known this id before; what it holds is to be asked. */
  | { readonly kind: 'already_paid' }
  /** It certainly never reached the gateway. `pool_timeout`: no connection of ours became free in time. */
  | { readonly kind: 'not_sent'; readonly reason: 'pool_timeout' | 'unreachable'; readonly cause: string }
  /** The gateway answered that it did not take it now. */
  | { readonly kind: 'refused'; readonly cause: string }
  /** The gateway answered that it never will. */
  | { readonly kind: 'invalid'; readonly cause: string }
  /** Anything else: it may be paid already, or be paid later. */
  | { readonly kind: 'unknown'; readonly cause: string };

/** What a gateway holds under an id. */
export interface HeldPayment {
  readonly amountCents: number;
  readonly requestedAt: Date;
}

export interface Gateway {
  readonly name: GatewayName;
  /** Makes one attempt. Never rejects. */
  send(payment: Payment): Promise<AttemptOutcome>;
  /** What the gateway holds under the id, or undefined when it gave no usable answer. Never rejects. */
  findPayment(correlationId: string): Promise<HeldPayment | undefined>;
  /** Drops the kept connections. */
  close(): void;
}
