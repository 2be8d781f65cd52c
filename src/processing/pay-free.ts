import type { Gateway } from '../gateways/gateway.ts';
import type { Payment } from '../payment.ts';
import { payTied, stayOrRequeue } from './pay-tied.ts';
import type { PaymentRun } from './payment-run.ts';
import type { GuardedGateway, ProcessingDeps } from './processing-deps.ts';
import { mayFallBackAfter, mayFallBackInstead, patienceMs } from './route.ts';
import { requeue, settle, tryAt, visitAt } from './visit.ts';

/** How often a waiting payment re-checks the fallback while neither gateway accepts. In memory: it costs nothing. */
const RECHECK_MS = 250;

/**
 * Pays where the routing rule says, as long as no attempt may have been paid.
 * @throws DeadLetterError, RequeueError
 */
export async function payFree(payment: Payment, run: PaymentRun, deps: ProcessingDeps): Promise<void> {
  const { primary, fallback, policy } = deps;
  const visit = visitAt(primary, payment, run);
  for (;;) {
    const isPrimaryClosed = primary.circuit.cause === undefined;
    if (isPrimaryClosed && mayFallBackInstead(run.ageMs, policy, roomAt(primary)) && fallback.circuit.isAccepting) {
      if (await payAtFallback(payment, run, deps)) return;
    }
    const patience = patienceMs(run.ageMs, primary.circuit.cause, policy);
    const maxWaitMs = fallback.circuit.isAccepting ? patience : Math.max(patience, RECHECK_MS);
    const result = await tryAt(visit, { isTied: false, maxWaitMs });
    switch (result.kind) {
      case 'paid':
      case 'already_paid':
        return settle(visit, result.onRecord, deps);
      case 'not_tried':
        if (result.why === 'closed' || result.why === 'no_place') throw requeue(visit, result, { isTied: false });
        if (result.why !== 'gave_up' || !fallback.circuit.isAccepting) break;
        // The wait was measured by what was known then. Meanwhile an operator may have stopped the primary, or it works again and
        // only a place was missing, which proves nothing.
        if (patienceMs(run.ageMs, primary.circuit.cause, policy) > 0) break;
        if (await payAtFallback(payment, run, deps)) return;
        break;
      case 'doubtful':
      case 'unknown':
        stayOrRequeue(visit, result);
        return payTied(visit, deps);
      case 'not_sent':
      case 'refused':
        if (mayFallBackAfter(result, run.ageMs, policy) && fallback.circuit.isAccepting) {
          if (await payAtFallback(payment, run, deps)) return;
        }
        // While the circuit is open the payment keeps its job: requeuing would cost Redis a round trip for every pause.
        if (primary.circuit.cause === undefined) throw requeue(visit, result, { isTied: false });
    }
  }
}

/** Payments that wait for a place wait for the relay, so only connections can show that a wait would be in vain. */
function roomAt({ gateway, circuit }: GuardedGateway): Pick<Gateway, 'hasFreeConnection' | 'wouldWaitInVain'> {
  return {
    hasFreeConnection: gateway.hasFreeConnection && circuit.hasFreePlace,
    wouldWaitInVain: gateway.wouldWaitInVain,
  };
}

/**
 * @returns whether it was paid there. Otherwise nothing was sent: another worker's probe is under way, for example
 * @throws DeadLetterError, RequeueError
 */
async function payAtFallback(payment: Payment, run: PaymentRun, deps: ProcessingDeps): Promise<boolean> {
  const visit = visitAt(deps.fallback, payment, run);
  // Bound only once the circuit lets the payment through: one that has to wait costs Redis nothing.
  const beforeSend = () => run.bindTo('fallback');
  const result = await tryAt(visit, { isTied: false, maxWaitMs: 0, beforeSend });
  switch (result.kind) {
    case 'paid':
    case 'already_paid':
      await settle(visit, result.onRecord, deps);
      return true;
    case 'doubtful':
    case 'unknown':
      stayOrRequeue(visit, result);
      await payTied(visit, deps);
      return true;
    case 'not_tried':
      if (result.why === 'gave_up') return false;
      throw requeue(visit, result, { isTied: false });
    case 'not_sent':
    case 'refused':
      // The fallback certainly does not have it, so the payment may go to the primary again.
      await run.release();
      throw requeue(visit, result, { isTied: false });
  }
}
