import type { FallbackConfig } from '../../../src/config.ts';
import type { AttemptOutcome, FailedAttempt, LookUpOutcome, PaymentOnRecord } from '../../../src/gateways/gateway.ts';
import { jobLockLost, type PaymentRun, type RunHistory } from '../../../src/processing/payment-run.ts';

/** For all tests of processing: outcomes, policies, and the states of a payment between runs. */

export const ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';
export const ACCEPTED_AT = new Date('2025-07-15T11:59:00.000Z');

export const ON_RECORD: PaymentOnRecord = { amountCents: 1990, requestedAt: new Date('2025-07-15T12:00:00.123Z') };
export const PAID: AttemptOutcome = { kind: 'paid', onRecord: ON_RECORD };
export const ALREADY_PAID: AttemptOutcome = { kind: 'already_paid', onRecord: ON_RECORD };

const http = (status: number) => ({ code: `http_${status}`, detail: `HTTP ${status}` });

export const POOL_TIMEOUT: FailedAttempt = {
  kind: 'not_sent',
  reason: 'pool_timeout',
  cause: { code: 'pool_timeout', detail: 'no connection became free' },
  evidence: 'none',
};
export const UNREACHABLE: FailedAttempt = {
  kind: 'not_sent',
  reason: 'unreachable',
  cause: { code: 'ECONNREFUSED', detail: 'connect ECONNREFUSED' },
  evidence: 'not_sent',
};
export const REFUSED: FailedAttempt = { kind: 'refused', cause: http(429), evidence: 'response' };
export const DOUBTFUL: FailedAttempt = {
  kind: 'doubtful',
  cause: { ...http(400), detail: 'HTTP 400: {}' },
  evidence: 'response',
};
export const UNKNOWN: FailedAttempt = { kind: 'unknown', cause: http(502), evidence: 'response' };
export const NO_RESPONSE: FailedAttempt = {
  kind: 'unknown',
  cause: { code: 'ETIMEDOUT', detail: 'no response' },
  evidence: 'no_response',
};
/** A 422 whose look-up does not say what is on record. */
export const UNPROVEN: FailedAttempt = { kind: 'unknown', cause: http(422), evidence: 'none' };

export const FOUND: LookUpOutcome = { kind: 'on_record', onRecord: ON_RECORD };
export const NOT_FOUND: LookUpOutcome = { kind: 'not_found' };
export const LOOK_UP_FAILED: LookUpOutcome = { kind: 'no_response', cause: http(503) };

const NEVER = Number.POSITIVE_INFINITY;
export const ON_POOL_TIMEOUT: FallbackConfig = { on: 'pool_timeout', afterMs: NEVER };
export const ON_NOT_SENT: FallbackConfig = { on: 'not_sent', afterMs: NEVER };
export const ON_NEVER: FallbackConfig = { on: 'never', afterMs: NEVER };
export const AFTER_5_S: FallbackConfig = { on: 'pool_timeout', afterMs: 5_000 };
/** The policies that send most to the fallback. */
export const EAGER: readonly FallbackConfig[] = [
  ON_NOT_SENT,
  { on: 'pool_timeout', afterMs: 0 },
  { on: 'not_sent', afterMs: 0 },
];

export const CLEAN: RunHistory = { runs: 0, isUnresolved: false, doubts: 0, doubtedSinceMs: undefined };
export const FREE = {};
export const REQUEUED_CLEAN = { history: { ...CLEAN, runs: 2 } };
export const UNRESOLVED = { history: { ...CLEAN, runs: 1, isUnresolved: true } };
export const DOUBTED = { history: { ...CLEAN, runs: 1, doubts: 1, doubtedSinceMs: ACCEPTED_AT.getTime() } };
export const BOUND = { boundTo: 'fallback', history: { ...CLEAN, runs: 1 } } as const;
export const BOUND_AND_UNRESOLVED = { boundTo: 'fallback', history: UNRESOLVED.history } as const;
export const BOUND_AND_DOUBTED = { boundTo: 'fallback', history: DOUBTED.history } as const;
/** What `bindTo` and `release` do when another run has taken the job over. */
export const lostLock = () => Promise.reject(jobLockLost());
/** Every state between runs. */
export const STATES: readonly Partial<PaymentRun>[] = [
  FREE,
  REQUEUED_CLEAN,
  UNRESOLVED,
  DOUBTED,
  BOUND,
  BOUND_AND_UNRESOLVED,
  BOUND_AND_DOUBTED,
];
