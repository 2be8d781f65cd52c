import type { GatewayName } from '../payment.ts';
import { events } from './events.ts';
import { BATCH_BOUNDS, Histogram, HistogramFamily, HOP_BOUNDS_MS, OTHER, REQUEST_BOUNDS_MS } from './histogram.ts';
import {
  BATCHES,
  type Batch,
  DEAD_LETTER_REASONS,
  type DeadLetterReason,
  GATEWAYS,
  HOPS,
  type Hop,
  NOT_ACCEPTED_REASONS,
  OUTCOMES,
  type Outcome,
} from './labels.ts';

/** What this process has counted since its start. Everything here only grows. Durations are in ms. */
export interface Measures {
  /** Payments answered 204. */
  readonly accepted: number;
  readonly notAccepted: Readonly<Record<string, number>>;
  readonly paid: Readonly<Record<GatewayName, number>>;
  readonly paidCents: Readonly<Record<GatewayName, number>>;
  readonly attempts: Readonly<Record<GatewayName, Readonly<Record<Outcome, number>>>>;
  readonly deadLetters: Readonly<Record<DeadLetterReason, number>>;
  readonly hops: Readonly<Record<Hop, Histogram>>;
  readonly batches: Readonly<Record<Batch, Histogram>>;
  /** By route, method and status. */
  readonly serverRequests: Iterable<readonly [route: string, method: string, status: number, Histogram]>;
  /** By gateway, error type ('' for none) and status (0 for none). */
  readonly gatewayRequests: Iterable<readonly [gateway: string, errorType: string, status: number, Histogram]>;
  /** Ends the subscriptions. The counts stay. */
  close(): void;
}

/** The request that brings a payment. */
const PAYMENTS = '/payments';

/** Those that a route may have, or that browsers send. Node's parser knows some thirty more, and no route has one of them. */
const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);

/**
 * The one subscriber of a process that counts. It runs inside the part that publishes, for every request and payment, so it
 * only adds to numbers: it never throws and keeps nothing of a payload.
 */
export function createMeasures(): Measures {
  const notAccepted: Record<string, number> = zeros(NOT_ACCEPTED_REASONS);
  const paid = zeros(GATEWAYS);
  const paidCents = zeros(GATEWAYS);
  const attempts = { primary: zeros(OUTCOMES), fallback: zeros(OUTCOMES) };
  const deadLetters = zeros(DEAD_LETTER_REASONS);
  const hops = histograms(HOPS, HOP_BOUNDS_MS);
  const batches = histograms(BATCHES, BATCH_BOUNDS);
  const serverRequests = new HistogramFamily(REQUEST_BOUNDS_MS);
  const gatewayRequests = new HistogramFamily(REQUEST_BOUNDS_MS);
  let accepted = 0;

  const subscriptions = [
    events.requestFinished.subscribe(({ route, method, status, code, durationMs }) => {
      serverRequests.at(route, METHODS.has(method) ? method : OTHER, status).observe(durationMs);
      if (route !== PAYMENTS || method !== 'POST') return;
      if (status === 204) {
        accepted += 1;
        hops.accept.observe(durationMs);
      } else if (code !== undefined) {
        notAccepted[code] = (notAccepted[code] ?? 0) + 1;
      }
    }),
    events.paymentTaken.subscribe(({ waitMs }) => hops.wait.observe(waitMs)),
    events.gatewayRequestEnded.subscribe(({ gateway, status = 0, errorType = '', durationMs }) =>
      gatewayRequests.at(gateway, errorType, status).observe(durationMs),
    ),
    events.attemptEnded.subscribe(({ gateway, outcome, durationMs }) => {
      attempts[gateway][outcome] += 1;
      hops.send.observe(durationMs);
    }),
    events.paymentPaid.subscribe(({ gateway, amountCents, recordMs }) => {
      paid[gateway] += 1;
      paidCents[gateway] += amountCents;
      hops.record.observe(recordMs);
    }),
    events.paymentDead.subscribe(({ reason }) => {
      deadLetters[reason] += 1;
    }),
    events.batchFlushed.subscribe(({ batch, size }) => batches[batch].observe(size)),
  ];

  return {
    get accepted() {
      return accepted;
    },
    notAccepted,
    paid,
    paidCents,
    attempts,
    deadLetters,
    hops,
    batches,
    serverRequests,
    gatewayRequests,
    close() {
      for (const unsubscribe of subscriptions) unsubscribe();
    },
  };
}

function zeros<Key extends string>(keys: readonly Key[]): Record<Key, number> {
  return Object.fromEntries(keys.map((key) => [key, 0])) as Record<Key, number>;
}

function histograms<Key extends string>(keys: readonly Key[], bounds: readonly number[]): Record<Key, Histogram> {
  return Object.fromEntries(keys.map((key) => [key, new Histogram(bounds)])) as Record<Key, Histogram>;
}
