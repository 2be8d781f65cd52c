import type { Cluster, Redis } from 'ioredis';
import type { GatewayName } from '../payment.ts';
import type { Heartbeat } from '../telemetry/heartbeat.ts';
import type { PaymentQueueName } from './bullmq-layout.ts';

/** The queue and the processes at it, at one moment. */
export interface QueueState {
  /** By Redis' clock, in ms. */
  readonly nowMs: number;
  /** What the cap counts: waiting, delayed and prioritized. */
  readonly size: number;
  readonly waiting: number;
  readonly delayed: number;
  /** Taken by a worker. */
  readonly inFlight: number;
  readonly isPaused: boolean;
  /**
   * The age of the oldest payment, in ms; 0 without one. Looks at the next ones to be taken, and at the oldest that were
   * delayed, taken or noted as unresolved: a bounded number, so a payment that was requeued into a long queue shows late.
   */
  readonly oldestMs: number;
  readonly unresolved: Readonly<Record<GatewayName, { readonly count: number; readonly oldestMs: number }>>;
  /** Undefined when Redis has no limit, or when we may not read it. */
  readonly memory: { readonly usedBytes: number; readonly maxBytes: number } | undefined;
  /** Of all live processes. */
  readonly heartbeats: readonly Heartbeat[];
}

export interface QueueWatch {
  /** One script, so that all of it is of one moment. @throws QueueUnavailableError */
  read(): Promise<QueueState>;
}

export function createQueueWatch(_options: { redis: Redis | Cluster; queue: PaymentQueueName }): QueueWatch {
  return { read: () => Promise.reject(new Error('to come')) };
}
