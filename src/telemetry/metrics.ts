import type { GatewayName } from '../payment.ts';

/** What an API node reads from Redis and PostgreSQL for a scrape. The same on every node, so rules take `max`. */
export interface RelayGauges {
  /** By state: waiting, delayed, in_flight. Undefined: Redis gave no usable reply. */
  readonly queue: Readonly<Record<'waiting' | 'delayed' | 'in_flight', number>> | undefined;
  /** PAYMENT_QUEUE_MAX_SIZE; may be infinity. */
  readonly capacity: number;
  readonly oldestWaitingSeconds: number | undefined;
  readonly unresolved:
    | Readonly<Record<GatewayName, { readonly count: number; readonly oldestSeconds: number }>>
    | undefined;
  /** Number of workers in which the gateway's circuit is open. */
  readonly circuitsOpen: Readonly<Record<GatewayName, number>> | undefined;
  readonly workers: number | undefined;
  /** Open dead letters, by reason code. Undefined: PostgreSQL did not respond. */
  readonly deadLetters: Readonly<Record<string, number>> | undefined;
  /** The last run of reconcile; undefined: there was none, or PostgreSQL did not respond. */
  readonly reconciliation:
    | { readonly at: Date; readonly differences: Readonly<Record<GatewayName, number>> }
    | undefined;
  /** Codes of the problems of `GET /health` that there are now. */
  readonly problems: readonly string[];
}

/** The metrics of a process as Prometheus reads them. */
export interface Metrics {
  /** The Content-Type of {@link text}. */
  readonly contentType: string;
  /** All series now. Never rejects: what cannot be read is NaN. */
  text(): Promise<string>;
}
