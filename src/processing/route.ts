import type { FallbackConfig } from '../config.ts';
import type { CircuitCause } from '../gateways/circuit.ts';
import type { FailedAttempt, Gateway } from '../gateways/gateway.ts';

/**
 * The rule that keeps a payment paid once.
 *
 * A gateway never pays an id a second time, so repeating there is safe. Only a change of gateway can pay twice. Hence a
 * payment may change from the primary to the fallback only while no attempt at the primary was made, or certainly none can
 * still be paid: `isFree`. Whether it *should* change then is the operator's choice (FALLBACK_ON, FALLBACK_AFTER_MS).
 */
export interface PrimaryHistory {
  /** No attempt at the primary, in this run or an earlier one, may be paid or is in doubt. */
  readonly isFree: boolean;
  /** Since the payment was accepted. */
  readonly ageMs: number;
}

/** Whether a payment goes to the fallback after an attempt at the primary that did not pay. */
export function mayFallBackAfter(outcome: FailedAttempt, history: PrimaryHistory, policy: FallbackConfig): boolean {
  if (!history.isFree || policy.on === 'never') return false;
  switch (outcome.kind) {
    case 'not_sent':
      return outcome.reason === 'pool_timeout' || policy.on === 'not_sent' || isOldEnough(history, policy);
    case 'refused':
      return isOldEnough(history, policy);
    case 'doubtful':
    case 'unknown':
      return false;
  }
}

/**
 * Whether a payment goes to the fallback instead of an attempt at a primary whose circuit is closed. Never while a connection
 * is free, however old it is. Otherwise when it is as old as FALLBACK_AFTER_MS, which helps with a slow primary, too; or when
 * a wait for a connection would be in vain. Such a wait would end at the fallback as well, but take a place of the worker:
 * with a slow primary no more payments would be paid than the places divided by the time-out.
 */
export function mayFallBackInstead(
  history: PrimaryHistory,
  policy: FallbackConfig,
  { hasFreeConnection, wouldWaitInVain }: Pick<Gateway, 'hasFreeConnection' | 'wouldWaitInVain'>,
): boolean {
  if (!history.isFree || policy.on === 'never' || hasFreeConnection) return false;
  return wouldWaitInVain || isOldEnough(history, policy);
}

/**
 * How long a payment waits for a primary whose circuit is open before it goes to the fallback instead, in ms.
 * Infinity: it waits for the primary.
 */
export function patienceMs(
  history: PrimaryHistory,
  openBecause: Pick<CircuitCause, 'evidence'> | undefined,
  policy: FallbackConfig,
): number {
  if (!history.isFree || policy.on === 'never') return Number.POSITIVE_INFINITY;
  // An attempt would end as the one that opened the circuit.
  if (openBecause?.evidence === 'not_sent' && policy.on === 'not_sent') return 0;
  return Math.max(0, policy.afterMs - history.ageMs);
}

/** Whether payments may ever leave a silent primary for the fallback. */
export function canLeaveSilence(policy: FallbackConfig): boolean {
  return policy.on !== 'never' && Number.isFinite(policy.afterMs);
}

function isOldEnough({ ageMs }: PrimaryHistory, { afterMs }: FallbackConfig): boolean {
  return ageMs >= afterMs;
}
