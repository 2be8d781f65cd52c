import { channel } from 'node:diagnostics_channel';
import type { GatewayName } from '../payment.ts';
import type { Batch, DeadLetterReason, Outcome } from './labels.ts';

/**
 * The events that the parts of a process report, for metrics, pages and traces. A part knows the event, not its subscribers.
 * Without a subscriber an event costs next to nothing, provided that its payload is made only for a subscriber:
 *
 *     if (events.paymentDead.hasSubscribers) events.paymentDead.publish({ reason });
 *
 * Durations are in ms, money in cents. The only field with an unbounded number of values is `correlationId`. It is for
 * traces; metrics must not use it.
 */
export interface Event<Payload> {
  readonly hasSubscribers: boolean;
  /** Never throws. An error of a subscriber becomes an uncaught exception of the process. */
  publish(payload: Payload): void;
  /** @returns a function that ends the subscription */
  subscribe(listener: (payload: Payload) => void): () => void;
}

export interface RequestFinished {
  /** The path in the table of routes, or `unmatched`. Never the path of the request, which is unbounded. */
  readonly route: string;
  readonly method: string;
  /** {@link HUNG_UP} when the client closed its connection before the response was written. */
  readonly status: number;
  /** The `error` of the response's body. */
  readonly code?: string | undefined;
  readonly durationMs: number;
}

/** By the convention of nginx. A payment of such a request may have been stored. */
export const HUNG_UP = 499;

/** One HTTP request to a gateway: a payment or a look-up. */
export interface GatewayRequestEnded {
  readonly gateway: GatewayName;
  /** Undefined: there was no response. */
  readonly status?: number | undefined;
  /** Why there was no usable response: the code of the failure, such as `ECONNRESET`, or `unusable_body`. */
  readonly errorType?: string | undefined;
  readonly durationMs: number;
}

export interface AttemptEnded {
  readonly correlationId: string;
  readonly gateway: GatewayName;
  /** The `kind` of the attempt's outcome. */
  readonly outcome: Outcome;
  /** The code of the cause, such as `http_502`. Undefined after a payment. */
  readonly cause?: string | undefined;
  /** With its look-up and the wait for a connection, without the wait at an open circuit. */
  readonly durationMs: number;
}

export interface PaymentPaid {
  readonly gateway: GatewayName;
  readonly amountCents: number;
  /** From the gateway's response until the payment's row was committed. */
  readonly recordMs: number;
}

export interface CircuitChanged {
  readonly gateway: GatewayName;
  readonly state: 'open' | 'closed';
  /** Why the circuit opened. */
  readonly cause?: { readonly code: string; readonly detail: string };
}

export const events = {
  requestFinished: event<RequestFinished>('http.request_finished'),
  /** A worker took the payment for the first time. `waitMs` is since the payment was accepted, by Redis' clock. */
  paymentTaken: event<{ readonly waitMs: number }>('payment.taken'),
  gatewayRequestEnded: event<GatewayRequestEnded>('gateway.request_ended'),
  attemptEnded: event<AttemptEnded>('gateway.attempt_ended'),
  /** The payment's row is committed. */
  paymentPaid: event<PaymentPaid>('payment.paid'),
  /** A run ended, and one of its attempts may be paid. From now on only this gateway may receive the payment. */
  paymentUnresolved: event<{ readonly correlationId: string; readonly gateway: GatewayName }>('payment.unresolved'),
  /** The dead letter's row is committed, or beyond DEAD_LETTERS_MAX_INVALID. */
  paymentDead: event<{ readonly reason: DeadLetterReason }>('payment.dead'),
  circuitChanged: event<CircuitChanged>('gateway.circuit_changed'),
  batchFlushed: event<{ readonly batch: Batch; readonly size: number }>('batch.flushed'),
} as const;

/** Tools outside this process's code can subscribe by the channel's name, such as `payrelay.payment.paid`. */
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
