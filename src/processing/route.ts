import type { FallbackConfig } from '../config.ts';
import type { CircuitCause } from '../gateways/circuit.ts';
import type { FailedAttempt, Gateway } from '../gateways/gateway.ts';

/**
 * The rule that keeps a payment paid once.
 *
 * A gateway never pays an id a second time, so repeating there is safe. Only a change of gateway can pay twice. Hence a
 * payment may change from the primary to the fallback only while it is free: no attempt at the primary, in this run or an
 * earlier one, may be paid or is in doubt. `processPayment` sends only free payments through this file. Whether a free payment
 * *should* change is the operator's choice (FALLBACK_ON, FALLBACK_AFTER_MS). Ages are in ms, since the payment was accepted.
 *
 * A primary that an operator has stopped or drains counts as down for FALLBACK_AFTER_MS. It is never evidence of `not_sent`:
 * to stop a gateway sends nothing to the other one that its age does not send there.
 */

/** Whether a payment goes to the fallback after an attempt at the primary that did not pay. */
export function mayFallBackAfter(outcome: FailedAttempt, ageMs: number, policy: FallbackConfig): boolean {
  if (policy.on === 'never') return false;
  switch (outcome.kind) {
    case 'not_sent':
      return outcome.reason === 'pool_timeout' || policy.on === 'not_sent' || isOldEnough(ageMs, policy);
    case 'refused':
      return isOldEnough(ageMs, policy);
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
  ageMs: number,
  policy: FallbackConfig,
  { hasFreeConnection, wouldWaitInVain }: Pick<Gateway, 'hasFreeConnection' | 'wouldWaitInVain'>,
): boolean {
  if (policy.on === 'never' || hasFreeConnection) return false;
  return wouldWaitInVain || isOldEnough(ageMs, policy);
}

/**
 * How long a payment waits for a primary whose circuit is open before it goes to the fallback instead, in ms.
 * Infinity: it waits for the primary.
 */
export function patienceMs(
  ageMs: number,
  openBecause: Pick<CircuitCause, 'evidence'> | undefined,
  policy: FallbackConfig,
): number {
  if (policy.on === 'never') return Number.POSITIVE_INFINITY;
  // An attempt would end as the one that opened the circuit.
  if (openBecause?.evidence === 'not_sent' && policy.on === 'not_sent') return 0;
  return Math.max(0, policy.afterMs - ageMs);
}

/** Whether payments may ever leave a silent primary for the fallback. */
export function canLeaveSilence(policy: FallbackConfig): boolean {
  return policy.on !== 'never' && Number.isFinite(policy.afterMs);
}

function isOldEnough(ageMs: number, { afterMs }: FallbackConfig): boolean {
  return ageMs >= afterMs;
}
