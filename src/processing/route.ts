import type { FallbackConfig } from '../config.ts';
import type { CircuitFailure } from '../gateways/circuit.ts';
import type { AttemptOutcome } from '../gateways/gateway.ts';

/**
 * The rule that keeps a payment paid once.
 *
 * A gateway refuses an id it knows, so repeating there is safe; only a change of gateway can pay twice. Hence a payment
 * may change from the primary to the fallback only while it is certain that no attempt at the primary was made or can
 * still be paid: `primaryIsClean`. Whether it *should* change then is the operator's choice (FALLBACK_ON, FALLBACK_AFTER_MS).
 */
export interface PrimaryHistory {
  /** No attempt at the primary, in this run or an earlier one, has an unknown outcome. */
  readonly primaryIsClean: boolean;
  /** Since the payment was accepted. */
  readonly ageMs: number;
}

/** After an attempt at the primary that did not pay: does the fallback get its chance? */
export function mayFallBackAfter(outcome: AttemptOutcome, history: PrimaryHistory, policy: FallbackConfig): boolean {
  if (!history.primaryIsClean) return false;
  switch (outcome.kind) {
    case 'not_sent':
      return outcome.reason === 'pool_timeout' || policy.on === 'not_sent' || history.ageMs >= policy.afterMs;
    case 'refused':
      return history.ageMs >= policy.afterMs;
    case 'paid':
    case 'already_paid':
    case 'invalid':
    case 'unknown':
      return false;
  }
}

/**
 * How long a payment waits for a primary whose circuit is open before it goes to the fallback instead.
 * Infinity: it waits for the primary.
 */
export function patienceMs(
  history: PrimaryHistory,
  openBecause: CircuitFailure | undefined,
  policy: FallbackConfig,
): number {
  if (!history.primaryIsClean) return Number.POSITIVE_INFINITY;
  // The circuit stands for an attempt: it would have ended as the one that opened it.
  if (openBecause === 'not_sent' && policy.on === 'not_sent') return 0;
  return Math.max(0, policy.afterMs - history.ageMs);
}
