import type { GatewayName } from '../payment.ts';

/**
 * The known values of the labels of metrics. Each has its series from the start, at 0: a rule can see a counter rise only when
 * it was there before. This room imports no other, so the values are listed here again. The types of the events reject a value
 * that is missing, and test/unit/telemetry/labels.test.ts compares the lists with those of the other rooms.
 */
export const GATEWAYS = ['primary', 'fallback'] as const satisfies readonly GatewayName[];

/** Sections of a payment's path: the request, the time in the queue, an attempt at a gateway, the row in the ledger. */
export const HOPS = ['accept', 'wait', 'send', 'record'] as const;

/** The kinds of an attempt's outcome. */
export const OUTCOMES = ['paid', 'already_paid', 'not_sent', 'refused', 'doubtful', 'unknown'] as const;

export const BATCHES = ['enqueue', 'record'] as const;

/** The codes of the responses to a payment that was not accepted. */
export const NOT_ACCEPTED_REASONS = [
  'queue_full',
  'queue_unavailable',
  'invalid_json',
  'invalid_request',
  'malformed_request',
  'payload_too_large',
  'request_timeout',
  'internal_error',
] as const;

export const DEAD_LETTER_REASONS = ['invalid_payment', 'rejected', 'payload_missing'] as const;

export const QUEUE_STATES = ['waiting', 'delayed', 'in_flight'] as const;

/**
 * The problems of `GET /health`, the worst first: what can keep payments from being accepted, paid or kept. `docs/runbook.md` has a
 * heading for each.
 */
export const PROBLEM_CODES = [
  'queue_unavailable',
  'queue_full',
  'queue_paused',
  'no_worker',
  'primary_down',
  'fallback_down',
  'worker_alone',
  'ledger_unavailable',
  'redis_memory',
  'eviction_policy',
  'durability',
  'missing_right',
  'wrong_type',
] as const;

export type Hop = (typeof HOPS)[number];
export type Outcome = (typeof OUTCOMES)[number];
export type Batch = (typeof BATCHES)[number];
export type DeadLetterReason = (typeof DEAD_LETTER_REASONS)[number];
export type QueueStateName = (typeof QUEUE_STATES)[number];
