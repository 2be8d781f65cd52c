import type { WorkerVitals } from './heartbeat.ts';
import type { Histogram } from './histogram.ts';
import { BATCHES, DEAD_LETTER_REASONS, GATEWAYS, HOPS, OUTCOMES, PROBLEM_CODES, QUEUE_STATES } from './labels.ts';
import type { Measures } from './measures.ts';
import type { RelayGauges } from './metrics.ts';

export type Labels = Readonly<Record<string, string>>;

export type Sample = readonly [labels: Labels, value: number | Histogram];

export interface Series {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  /** What a histogram's values are divided by, to get the base unit of the name. */
  readonly divisor?: number;
  samples(): Iterable<Sample>;
}

const MS_PER_SECOND = 1_000;

const byGateway = (of: (gateway: (typeof GATEWAYS)[number]) => number | undefined) =>
  GATEWAYS.map((gateway): Sample => [{ gateway }, of(gateway) ?? Number.NaN]);

const byReason = (counts: Readonly<Record<string, number>>) =>
  Object.entries(counts).map(([reason, count]): Sample => [{ reason }, count]);

/** What each process counts for itself. A process of the other role has the same series, at 0, so that rules may sum all. */
export function countedSeries(measures: Measures): Series[] {
  return [
    {
      name: 'http_server_request_duration_seconds',
      help: 'Duration of HTTP requests to this process.',
      type: 'histogram',
      divisor: MS_PER_SECOND,
      *samples() {
        for (const [http_route, http_request_method, status, histogram] of measures.serverRequests) {
          yield [{ http_route, http_request_method, http_response_status_code: `${status}` }, histogram];
        }
      },
    },
    {
      name: 'http_client_request_duration_seconds',
      help: 'Duration of HTTP requests to gateways: payments and look-ups.',
      type: 'histogram',
      divisor: MS_PER_SECOND,
      *samples() {
        for (const [gateway, errorType, status, histogram] of measures.gatewayRequests) {
          // By OpenTelemetry's convention an error status is an error type, too.
          const error_type = errorType === '' && status >= 400 ? `${status}` : errorType;
          yield [
            {
              gateway,
              ...(status !== 0 && { http_response_status_code: `${status}` }),
              ...(error_type !== '' && { error_type }),
            },
            histogram,
          ];
        }
      },
    },
    {
      name: 'payrelay_payments_accepted_total',
      help: 'Payments answered with 204.',
      type: 'counter',
      samples: () => [[{}, measures.accepted]],
    },
    {
      name: 'payrelay_payments_not_accepted_total',
      help: 'Payments answered with an error, by its code.',
      type: 'counter',
      samples: () => byReason(measures.notAccepted),
    },
    {
      name: 'payrelay_payments_paid_total',
      help: 'Payments paid and recorded.',
      type: 'counter',
      samples: () => byGateway((gateway) => measures.paid[gateway]),
    },
    {
      name: 'payrelay_amount_paid_cents_total',
      help: 'Money paid and recorded, in cents.',
      type: 'counter',
      samples: () => byGateway((gateway) => measures.paidCents[gateway]),
    },
    {
      name: 'payrelay_attempts_total',
      help: 'Attempts to pay, by outcome.',
      type: 'counter',
      samples: () =>
        GATEWAYS.flatMap((gateway) =>
          OUTCOMES.map((outcome): Sample => [{ gateway, outcome }, measures.attempts[gateway][outcome]]),
        ),
    },
    {
      name: 'payrelay_hop_duration_seconds',
      help: 'Duration of the sections of a payment: accept, wait (in the queue, until its first run), send, record.',
      type: 'histogram',
      divisor: MS_PER_SECOND,
      samples: () => HOPS.map((hop): Sample => [{ hop }, measures.hops[hop]]),
    },
    {
      name: 'payrelay_batch_size',
      help: 'Payments that share a round trip to Redis (enqueue) or PostgreSQL (record).',
      type: 'histogram',
      samples: () => BATCHES.map((batch): Sample => [{ batch }, measures.batches[batch]]),
    },
    {
      name: 'payrelay_dead_letters_total',
      help: 'Payments that became dead letters.',
      type: 'counter',
      samples: () => byReason(measures.deadLetters),
    },
  ];
}

/**
 * What an API node reads of the whole relay. The same on every node, so rules take `max`.
 * @param gauges undefined when they could not be read: every value is NaN
 */
export function relaySeries(gauges: () => RelayGauges | undefined): Series[] {
  const gauge = (name: string, help: string, samples: (gauges: RelayGauges | undefined) => Sample[]): Series => ({
    name,
    help,
    type: 'gauge',
    samples: () => samples(gauges()),
  });
  const one = (value: number | undefined): Sample[] => [[{}, value ?? Number.NaN]];
  return [
    gauge('payrelay_queue_payments', 'Payments in the queue.', (read) =>
      QUEUE_STATES.map((state) => [{ state }, read?.queue?.[state] ?? Number.NaN]),
    ),
    gauge('payrelay_queue_capacity', 'PAYMENT_QUEUE_MAX_SIZE.', (read) => one(read?.capacity)),
    gauge('payrelay_queue_oldest_waiting_seconds', 'Age of the oldest payment that is not paid.', (read) =>
      one(read?.oldestWaitingSeconds),
    ),
    gauge('payrelay_unresolved_payments', 'Payments of which an attempt may be paid.', (read) =>
      byGateway((gateway) => read?.unresolved?.[gateway].count),
    ),
    gauge('payrelay_unresolved_oldest_seconds', 'Age of the oldest unresolved payment.', (read) =>
      byGateway((gateway) => read?.unresolved?.[gateway].oldestSeconds),
    ),
    gauge('payrelay_circuit_open', 'Workers in which the circuit of the gateway is open.', (read) =>
      byGateway((gateway) => read?.circuitsOpen?.[gateway]),
    ),
    gauge('payrelay_workers', 'Workers with a heartbeat.', (read) => one(read?.workers)),
    gauge('payrelay_dead_letters', 'Open dead letters.', (read) => {
      const isRead = read?.deadLetters !== undefined;
      const none = Object.fromEntries(DEAD_LETTER_REASONS.map((reason) => [reason, isRead ? 0 : Number.NaN]));
      return byReason({ ...none, ...read?.deadLetters });
    }),
    gauge('payrelay_reconcile_difference', 'Differences that the last run of reconcile found.', (read) =>
      byGateway((gateway) => read?.reconciliation?.differences[gateway]),
    ),
    gauge('payrelay_reconcile_last_run_timestamp_seconds', 'When reconcile ran last.', (read) =>
      one(read?.reconciliation && read.reconciliation.at.getTime() / MS_PER_SECOND),
    ),
    gauge('payrelay_problem', 'Whether GET /health names this problem now.', (read) =>
      [...new Set([...PROBLEM_CODES, ...(read?.problems ?? [])])].map((code) => [
        { code },
        read === undefined ? Number.NaN : Number(read.problems.includes(code)),
      ]),
    ),
  ];
}

/** What a worker knows about itself. */
export function workerSeries(vitals: () => WorkerVitals | undefined): Series[] {
  const gauge = (name: string, help: string, of: (vitals: WorkerVitals) => number): Series => ({
    name,
    help,
    type: 'gauge',
    samples() {
      const read = vitals();
      return [[{}, read ? of(read) : Number.NaN]];
    },
  });
  return [
    gauge('payrelay_worker_in_flight', 'Payments that this worker has taken.', ({ inFlight }) => inFlight),
    gauge('payrelay_worker_concurrency', 'PAYMENT_QUEUE_MAX_CONCURRENCY of this worker.', (read) => read.concurrency),
  ];
}

/** For a worker without an API part. It sees only its own circuits. */
export function ownCircuitSeries(vitals: () => WorkerVitals | undefined): Series[] {
  return [
    {
      name: 'payrelay_circuit_open',
      help: 'Whether the circuit of the gateway is open in this worker.',
      type: 'gauge',
      samples() {
        const read = vitals();
        return byGateway((gateway) => read && Number(read.gateways[gateway].down !== undefined));
      },
    },
  ];
}
