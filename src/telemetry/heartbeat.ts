import type { GatewayName } from '../payment.ts';
import type { Failure } from '../process/outage-log.ts';
import type { Hop } from './labels.ts';

/**
 * What a process tells all others about itself, once a second, as JSON in Redis (queue/heartbeats.ts). Times are ISO 8601, by
 * this process's clock; the age of a heartbeat is measured by Redis' clock.
 */
export interface Heartbeat {
  /** Unique for each start of a process. */
  readonly id: string;
  readonly role: 'api' | 'worker' | 'all';
  readonly host: string;
  readonly pid: number;
  readonly version: string;
  readonly startedAt: string;
  /** Payments accepted since the start. */
  readonly accepted: number;
  /** Per second, in the mean over the last {@link RATE_SECONDS}. */
  readonly rates: Rates;
  /**
   * Of the last {@link RATE_SECONDS}: how many took at most each of HOP_BOUNDS_MS (histogram.ts) and longer than the bound
   * before it. The last number: longer than all bounds.
   */
  readonly hops: Readonly<Record<Hop, readonly number[]>>;
  /** Of a process with the role `worker` or `all`. */
  readonly worker?: WorkerVitals;
  /** Of a process with the role `api` or `all`: since when it sees which problem, so that `since` outlives a restart. */
  readonly problems?: Readonly<Record<string, string>>;
}

export const RATE_SECONDS = 10;

export interface Rates {
  readonly accepted: number;
  readonly notAccepted: number;
  readonly paid: Readonly<Record<GatewayName, number>>;
}

/** A cause and the time since when it holds. */
export interface Since extends Failure {
  readonly since: string;
}

export interface WorkerVitals {
  /** BullMQ's id of the worker: the locks of its jobs begin with it. */
  readonly workerId: string;
  readonly concurrency: number;
  readonly inFlight: number;
  readonly gateways: Readonly<Record<GatewayName, GatewayVitals>>;
  /** Why the ledger does not respond; undefined while it does. */
  readonly ledgerDown?: Since;
  /** Why the worker takes no payments (server-check.ts); undefined while it may. */
  readonly fault?: Since;
}

export interface GatewayVitals {
  /** Why it gets no new payments: its circuit is open, or an operator steers it. Undefined: it gets them. */
  readonly down?: Since;
  /** Why this worker fails here while other workers pay. Undefined: it does not. */
  readonly alone?: Since;
  /** Payments that wait in this worker for the gateway. */
  readonly waiting: number;
  /** What this worker follows of the operators' steering (queue/steering.ts). Undefined: `open`, or an older version. */
  readonly steered?: 'open' | 'draining' | 'stopped';
  /** Attempts and look-ups at this gateway that are under way in this worker. */
  readonly underWay?: number;
}
