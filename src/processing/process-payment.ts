import type { Recorder } from '../ledger/recorder.ts';
import { type GatewayName, type Payment, parsePayment } from '../payment.ts';
import { bury, payloadTextOf } from './bury.ts';
import { payFree } from './pay-free.ts';
import { payTied } from './pay-tied.ts';
import { type PaymentRun, RequeueError } from './payment-run.ts';
import type { ProcessingDeps } from './processing-deps.ts';
import { settle, visitAt } from './visit.ts';

/**
 * Pays one payment at one gateway and records it.
 * Resolves once the payment is in the ledger.
 * @throws DeadLetterError, RequeueError
 */
export async function processPayment(run: PaymentRun, deps: ProcessingDeps): Promise<void> {
  const payment = await validPayment(run, deps);
  const { isRecorded, tiedTo } = await lookUp(payment, deps);
  if (isRecorded) return;
  // The dead letter was there before the job, so it knows better than a run that ended without a word.
  const onlyAt = run.boundTo ?? tiedTo ?? unresolvedAt(run);
  if (deps.policy.on === 'never' && onlyAt !== 'fallback' && (await recordIfAtFallback(payment, run, deps))) return;
  if (onlyAt === undefined) return payFree(payment, run, deps);
  // Bound before the first send, for an older worker: it does not read dead letters.
  if (onlyAt === 'fallback' && run.boundTo === undefined) await run.bindTo('fallback');
  return payTied(visitAt(deps[onlyAt], payment, run), deps);
}

/** Buries what no gateway can be sent. @throws DeadLetterError, RequeueError */
async function validPayment(run: PaymentRun, deps: ProcessingDeps): Promise<Payment> {
  const parsed = parsePayment(run.payload);
  if ('payment' in parsed) return parsed.payment;
  if ((await payloadTextOf(run)) === undefined) {
    return bury(run, deps, {
      code: 'payload_missing',
      reason: 'the job has lost its payload: Redis evicted it (maxmemory-policy must be noeviction)',
      // The history was lost with the payload, so there may have been an attempt.
      gateway: run.boundTo ?? 'primary',
    });
  }
  return bury(run, deps, {
    code: 'invalid_payment',
    reason: parsed.faults.map(({ param, message }) => `${param} ${message}`).join('; '),
    // An earlier dead letter of this id may have left an attempt behind.
    gateway: run.boundTo ?? unresolvedAt(run),
  });
}

async function lookUp(payment: Payment, { recorder }: ProcessingDeps): ReturnType<Recorder['lookUp']> {
  try {
    return await recorder.lookUp(payment.correlationId);
  } catch (error) {
    const message = `ledger lookup failed: ${(error as Error).message}`;
    throw new RequeueError(message, { code: 'ledger_unavailable', end: 'clean', pause: 'backoff' });
  }
}

/** An attempt at the fallback binds the payment to it first, so any other attempt was made at the primary. */
function unresolvedAt({ history }: PaymentRun): GatewayName | undefined {
  return history.isUnresolved || history.doubts > 0 ? 'primary' : undefined;
}

/**
 * After a restore the ledger may lack payments, and what the fallback has on record must not be sent to the primary. Every
 * run that may send there asks: an earlier run may have ended before it got the response.
 * @returns whether the fallback had it, and it is recorded now
 * @throws RequeueError
 */
async function recordIfAtFallback(payment: Payment, run: PaymentRun, deps: ProcessingDeps): Promise<boolean> {
  const { gateway, circuit } = deps.fallback;
  const found = await circuit.lookUp({ isTied: false }, () => gateway.findPayment(payment.correlationId));
  switch (found.kind) {
    case 'not_found':
      return false;
    case 'on_record':
      // If recording fails now, the next run must not take the payment for one that may be at the primary.
      await run.bindTo('fallback');
      await settle(visitAt(deps.fallback, payment, run), found.onRecord, deps);
      return true;
    case 'no_response': {
      const message = `FALLBACK_ON=never: the look-up at the fallback gateway failed: ${found.cause.detail}`;
      throw new RequeueError(message, { code: found.cause.code, end: 'clean', pause: 'tied' });
    }
  }
}
