import { channel } from 'node:diagnostics_channel';
import type { GatewayName } from '../payment.ts';

/**
 * The events that the parts of a process report, for metrics, pages and traces. A part knows the event, not its subscribers.
 * Without a subscriber an event costs next to nothing, provided that its payload is made only for a subscriber:
 *
 *     if (events.paymentPaid.hasSubscribers) events.paymentPaid.publish({ gateway, amountCents });
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

/** One section of a payment's path. `wait` is the time in the queue. */
export type Hop = 'accept' | 'wait' | 'send' | 'record';

export interface RequestFinished {
  /** The path in the table of routes, or `unmatched`. Never the path of the request, which is unbounded. */
  readonly route: string;
  readonly method: string;
  readonly status: number;
  readonly durationMs: number;
}

export interface AttemptEnded {
  readonly correlationId: string;
  readonly gateway: GatewayName;
  /** The `kind` of the attempt's outcome. */
  readonly outcome: 'paid' | 'already_paid' | 'not_sent' | 'refused' | 'doubtful' | 'unknown';
  /** The code of the cause, such as `http_502`. Undefined after a payment. */
  readonly cause?: string;
  readonly durationMs: number;
}

export interface CircuitChanged {
  readonly gateway: GatewayName;
  readonly state: 'open' | 'closed';
  /** Why the circuit opened. */
  readonly cause?: { readonly code: string; readonly detail: string };
}

export const events = {
  requestFinished: event<RequestFinished>('http.request_finished'),
  /** A payment was not accepted. The reason is the code of the response. */
  paymentNotAccepted: event<{ readonly reason: string }>('payment.not_accepted'),
  paymentPaid: event<{ readonly gateway: GatewayName; readonly amountCents: number }>('payment.paid'),
  /** A payment goes back to the queue, and from now on only this gateway may receive it. */
  paymentUnresolved: event<{ readonly correlationId: string; readonly gateway: GatewayName }>('payment.unresolved'),
  paymentDead: event<{ readonly reason: string }>('payment.dead'),
  attemptEnded: event<AttemptEnded>('gateway.attempt_ended'),
  circuitChanged: event<CircuitChanged>('gateway.circuit_changed'),
  hopEnded: event<{ readonly hop: Hop; readonly durationMs: number }>('payment.hop_ended'),
  batchFlushed: event<{ readonly batch: 'enqueue' | 'record'; readonly size: number }>('batch.flushed'),
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
