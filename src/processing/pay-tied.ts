import type { CircuitResult } from '../gateways/circuit.ts';
import type { AttemptOutcome, FailedAttempt, PaymentOnRecord } from '../gateways/gateway.ts';
import { bury } from './bury.ts';
import type { ProcessingDeps } from './processing-deps.ts';
import { notAccepting, requeue, settle, tryAt, type Visit } from './visit.ts';

/**
 * Pays at the only gateway that may get the payment.
 * @throws DeadLetterError, RequeueError
 */
export async function payTied(visit: Visit, deps: ProcessingDeps): Promise<void> {
  let noted: string | undefined;
  for (;;) {
    const { causeForTied: cause } = visit.at.circuit;
    if (cause !== undefined && cause.code !== noted) {
      visit.run.noteUnresolved(notAccepting(visit, cause));
      noted = cause.code;
    }
    const result = await tryAt(visit, { isTied: true, maxWaitMs: Number.POSITIVE_INFINITY });
    if (result.kind === 'paid' || result.kind === 'already_paid') return settle(visit, result.onRecord, deps);
    if (result.kind === 'doubtful') {
      const onRecord = await afterDoubt(visit, result, deps);
      if (onRecord) return settle(visit, onRecord, deps);
    }
    stayOrRequeue(visit, result);
  }
}

type Paid = Extract<AttemptOutcome, { kind: 'paid' | 'already_paid' }>;

/**
 * Decides about a tied payment that was not paid: it stays in flight while the circuit may need it as a probe, and otherwise
 * goes back to the queue.
 * @throws RequeueError
 */
export function stayOrRequeue(visit: Visit, result: Exclude<CircuitResult, Paid>): void {
  if (result.kind === 'not_tried') {
    if (result.why === 'closed' || result.why === 'no_place') throw requeue(visit, result, { isTied: true });
    return;
  }
  // A doubt counts when its run ends. If the only probe never ended its run, it would never have a second doubt.
  const mayStay = visit.at.circuit.causeForTied !== undefined && result.kind !== 'doubtful';
  if (!mayStay) throw requeue(visit, result, { isTied: true });
}

/** Doubts over new connections, this one included, after which a payment may count as rejected. */
const DOUBTS_TO_REJECT = 3;

/**
 * A 400 may come from anybody and for anything. If an attempt may be paid, the look-up may find the payment. Otherwise only
 * several doubts together are believed: over new connections, for `rejectAfterMs`, while the gateway paid another payment
 * and does not have this one on record.
 * @returns what is on record after all
 * @throws DeadLetterError when the gateway has certainly rejected it
 */
async function afterDoubt(
  { payment, run, at, hadUnknown }: Visit,
  { cause }: FailedAttempt,
  deps: ProcessingDeps,
): Promise<PaymentOnRecord | undefined> {
  const { doubts, doubtedSinceMs, isUnresolved } = run.history;
  const mayBePaid = hadUnknown || isUnresolved;
  const isBelievable =
    // The first doubt may have come over a keep-alive connection. Those of later runs have not.
    doubts >= DOUBTS_TO_REJECT &&
    doubtedSinceMs !== undefined &&
    deps.nowMs() - doubtedSinceMs >= deps.rejectAfterMs &&
    // The payment that it paid may be of another shard, whose Redis has another clock. So ages are compared, not times.
    performance.now() - at.lastPaidAtMs < deps.nowMs() - doubtedSinceMs;
  if (!mayBePaid && !isBelievable) return undefined;
  const found = await at.circuit.lookUp({ isTied: true }, () => at.gateway.findPayment(payment.correlationId));
  if (found.kind === 'on_record') return found.onRecord;
  if (found.kind === 'not_found' && !mayBePaid) {
    const { name } = at.gateway;
    return bury(run, deps, { code: 'rejected', reason: `${name} gateway: ${cause.detail}`, gateway: name });
  }
  return undefined;
}
