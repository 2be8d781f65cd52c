import type { Ledger } from '../ledger/ledger.ts';
import type { QueueState, QueueWatch } from '../queue/queue-state.ts';
import type { ServerCheck } from '../queue/server-check.ts';

/** What can keep payments from being accepted, paid or kept. `docs/runbook.md` has a heading for each. */
export const PROBLEM_CODES = [
  'queue_unavailable',
  'queue_full',
  'queue_paused',
  'no_worker',
  'primary_down',
  'fallback_down',
  'ledger_unavailable',
  'redis_memory',
  'eviction_policy',
  'durability',
  'missing_right',
  'wrong_type',
] as const;

export type ProblemCode = (typeof PROBLEM_CODES)[number];

export interface Problem {
  readonly code: ProblemCode;
  /** When it was first seen, ISO 8601. */
  readonly since: string;
  /** A sentence for people. */
  readonly cause: string;
}

export interface RelayHealth {
  readonly queue: QueueState;
  /** The worst first, in the order of {@link PROBLEM_CODES}. */
  readonly problems: readonly Problem[];
}

export interface RelayHealthCheck {
  /** Looks at Redis and PostgreSQL now. @throws QueueUnavailableError when Redis gives no usable reply */
  check(): Promise<RelayHealth>;
  /** Since when this process sees which problem, for its heartbeat. */
  readonly seen: Readonly<Record<string, string>>;
}

export function createRelayHealthCheck({
  queueWatch,
}: {
  queueWatch: QueueWatch;
  ledger: Pick<Ledger, 'ping'>;
  serverCheck: Pick<ServerCheck, 'fault' | 'problems'>;
  /** PAYMENT_QUEUE_MAX_SIZE */
  maxSize: number;
}): RelayHealthCheck {
  return { check: async () => ({ queue: await queueWatch.read(), problems: [] }), seen: {} };
}
