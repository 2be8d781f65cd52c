import { channel } from 'node:diagnostics_channel';
import type { GatewayName } from '../payment.ts';

/**
 * What the parts of a process report, for those who count, show and trace it. A part names the event and knows none of its
 * subscribers. Publishing to nobody costs next to nothing, if the payload is made only for a subscriber:
 *
 *     if (events.paymentPaid.hasSubscribers) events.paymentPaid.publish({ gateway, amountCents });
 *
 * Durations are in ms, money in cents. No payload has a field that grows with the payments, but for `correlationId`, which
 * traces use and metrics must not.
 */
export interface Event<Payload> {
  readonly hasSubscribers: boolean;
  /** Never throws: the error of a subscriber is an uncaught exception of the process. */
  publish(payload: Payload): void;
  /** @returns what ends the subscription */
  subscribe(listener: (payload: Payload) => void): () => void;
}

/** One stretch of a payment's way. `wait` is its time in the queue. */
export type Hop = 'accept' | 'wait' | 'send' | 'record';

export interface RequestFinished {
  /** The path of the route's table, or `unmatched`; never what the client asked for. */
  readonly route: string;
  readonly method: string;
  readonly status: number;
  readonly durationMs: number;
}

export interface AttemptEnded {
  readonly correlationId: string;
  readonly gateway: GatewayName;
  /** The `kind` of its outcome. */
  readonly outcome: 'paid' | 'already_paid' | 'not_sent' | 'refused' | 'doubtful' | 'unknown';
  /** The cause's code, `http_502` for one; undefined when it paid. */
  readonly cause?: string;
  readonly durationMs: number;
}

export interface CircuitChanged {
  readonly gateway: GatewayName;
  readonly state: 'open' | 'closed';
  /** What opened it. */
  readonly cause?: { readonly code: string; readonly detail: string };
}

export const events = {
  requestFinished: event<RequestFinished>('http.request_finished'),
  /** Payments that were not accepted, by the code of the response. */
  paymentNotAccepted: event<{ readonly reason: string }>('payment.not_accepted'),
  paymentPaid: event<{ readonly gateway: GatewayName; readonly amountCents: number }>('payment.paid'),
  /** A payment goes back to the queue, and only this gateway may get it. */
  paymentUnresolved: event<{ readonly correlationId: string; readonly gateway: GatewayName }>('payment.unresolved'),
  paymentDead: event<{ readonly reason: string }>('payment.dead'),
  attemptEnded: event<AttemptEnded>('gateway.attempt_ended'),
  circuitChanged: event<CircuitChanged>('gateway.circuit_changed'),
  hopEnded: event<{ readonly hop: Hop; readonly durationMs: number }>('payment.hop_ended'),
  batchFlushed: event<{ readonly batch: 'enqueue' | 'record'; readonly size: number }>('batch.flushed'),
} as const;

/** Channels are found by name, also by tools that know nothing of this file: `payrelay.payment.paid`. */
function event<Payload>(name: string): Event<Payload> {
  const named = channel(`payrelay.${name}`);
  return {
    get hasSubscribers() {
      return named.hasSubscribers;
    },
    publish: (payload) => named.publish(payload),
    subscribe(listener) {
      const onMessage = (message: unknown) => listener(message as Payload);
      named.subscribe(onMessage);
      return () => {
        named.unsubscribe(onMessage);
      };
    },
  };
}
