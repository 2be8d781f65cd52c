import type { CircuitCause, CircuitResult } from '../gateways/circuit.ts';
import type { AttemptCause, FailedAttempt, PaymentOnRecord } from '../gateways/gateway.ts';
import type { GatewayName, Payment } from '../payment.ts';
import type { Failure } from '../process/outage-log.ts';
import { events } from '../telemetry/events.ts';
import { type PaymentRun, RequeueError, type RunEnd } from './payment-run.ts';
import type { GuardedGateway, ProcessingDeps } from './processing-deps.ts';

/** A payment at one gateway in this run, with the results of its attempts there. */
export interface Visit {
  readonly payment: Payment;
  readonly run: PaymentRun;
  readonly at: GuardedGateway;
  /** As `performance.now()` counts. */
  readonly startedAtMs: number;
  sends: number;
  failures: number;
  /** An attempt of this run may be paid. */
  hadUnknown: boolean;
  hadDoubt: boolean;
  /** As `performance.now()` counts: the gateway asked this payment to wait. */
  notBeforeMs: number;
}

export function visitAt(at: GuardedGateway, payment: Payment, run: PaymentRun): Visit {
  const notBeforeMs = Number.NEGATIVE_INFINITY;
  const startedAtMs = performance.now();
  return { payment, run, at, startedAtMs, sends: 0, failures: 0, hadUnknown: false, hadDoubt: false, notBeforeMs };
}

/**
 * Makes one attempt, when the circuit lets it, and notes in the visit what came of it.
 * @throws what `beforeSend` throws, or RequeueError when the run may have lost its job; then nothing was sent
 */
export async function tryAt(
  visit: Visit,
  { isTied, maxWaitMs, beforeSend }: { isTied: boolean; maxWaitMs: number; beforeSend?: () => Promise<void> },
): Promise<CircuitResult> {
  const { payment, run, at } = visit;
  const { correlationId } = payment;
  // A free payment of an earlier run counts, too: as the probe into a silence it would be tied from then on, and new payments
  // are spared that.
  const isNew = !isTied && visit.failures === 0;
  const send = () => {
    if (!run.isOwned) throw notOwned(visit);
    visit.sends += 1;
    return at.gateway.send(payment, {
      isFirst: !isTied && run.history.runs === 0 && visit.sends === 1,
      isUnresolved: isTied,
      onNewConnection: visit.hadDoubt || run.history.doubts > 0,
    });
  };
  const result = await at.circuit.run(
    {
      correlationId,
      isNew,
      isTied,
      hasHadItsTurn: visit.failures > 0,
      arrivedAtMs: visit.startedAtMs,
      maxWaitMs,
      notBeforeMs: visit.notBeforeMs,
    },
    beforeSend ? () => beforeSend().then(send) : send,
  );
  switch (result.kind) {
    case 'paid':
      at.lastPaidAtMs = performance.now();
      break;
    case 'unknown':
    case 'doubtful':
    case 'refused':
    case 'not_sent':
      visit.failures += 1;
      if (result.kind === 'unknown') visit.hadUnknown = true;
      if (result.kind === 'doubtful') visit.hadDoubt = true;
      if (result.retryAfterMs !== undefined) visit.notBeforeMs = performance.now() + result.retryAfterMs;
      break;
    case 'already_paid':
    case 'not_tried':
  }
  return result;
}

/**
 * Records what the gateway has on record.
 * @throws RequeueError when the ledger did not commit it
 */
export async function settle(
  { payment: { correlationId }, at: { gateway } }: Visit,
  onRecord: PaymentOnRecord,
  { recorder, logger }: Pick<ProcessingDeps, 'recorder' | 'logger'>,
): Promise<void> {
  try {
    await recorder.record({ correlationId, gateway: gateway.name, ...onRecord });
  } catch (error) {
    publishUnresolved(correlationId, gateway.name);
    throw new RequeueError(`paid at the ${gateway.name} gateway, not recorded yet: ${(error as Error).message}`, {
      code: 'ledger_unavailable',
      end: 'unresolved',
      pause: 'backoff',
    });
  }
  // winston writes the line before it looks at the level.
  if (logger.isDebugEnabled()) logger.debug('payment recorded', { correlationId, gateway: gateway.name });
}

/** The error that ends the run of a payment that was not paid: why, and when the next run may start. */
export function requeue(
  visit: Visit,
  result: FailedAttempt | Extract<CircuitResult, { kind: 'not_tried' }>,
  { isTied }: { isTied: boolean },
): RequeueError {
  const { at, run, hadUnknown, hadDoubt, notBeforeMs } = visit;
  if (hadUnknown) publishUnresolved(visit.payment.correlationId, at.gateway.name);
  const end: RunEnd = hadUnknown ? 'unresolved' : hadDoubt ? 'doubtful' : 'clean';
  if (result.kind === 'not_tried' && result.why === 'closed') {
    return new RequeueError('the worker is shutting down', { code: 'shutting_down', end, pause: 'none' });
  }
  const cause = result.kind === 'not_tried' ? waitingFor(visit, { isTied }) : result.cause;
  const isDoubtedOnly = end !== 'unresolved' && !run.history.isUnresolved && (hadDoubt || run.history.doubts > 0);
  const isCrowded = result.kind === 'not_sent' && result.reason === 'pool_timeout' && !hadUnknown;
  const reason = describe(visit, result.kind === 'not_tried' ? 'not accepting' : result.kind, cause);
  return new RequeueError(reason, {
    code: cause?.code ?? 'not_accepting',
    end,
    pause: !isTied ? 'backoff' : isDoubtedOnly ? 'doubted' : isCrowded ? 'crowded' : 'tied',
    atLeastMs: Math.max(0, notBeforeMs - performance.now()),
  });
}

/** Ends the run without the attempt. Those before it count as usual. */
function notOwned({ hadUnknown, hadDoubt }: Visit): RequeueError {
  return new RequeueError('the lock of the job was not renewed in time', {
    code: 'lock_lost',
    end: hadUnknown ? 'unresolved' : hadDoubt ? 'doubtful' : 'clean',
    pause: 'backoff',
  });
}

/** Why the gateway does not accept this payment. */
export function notAccepting(visit: Visit, cause: CircuitCause): Failure {
  return { code: cause.code, detail: describe(visit, 'not accepting', cause) };
}

function waitingFor({ at: { circuit } }: Visit, { isTied }: { isTied: boolean }): CircuitCause | undefined {
  return isTied ? circuit.causeForTied : circuit.cause;
}

function describe({ at }: Visit, what: string, cause: AttemptCause | undefined): string {
  return `${at.gateway.name} gateway: ${what}${cause ? `, ${cause.detail}` : ''}`;
}

function publishUnresolved(correlationId: string, gateway: GatewayName): void {
  if (events.paymentUnresolved.hasSubscribers) events.paymentUnresolved.publish({ correlationId, gateway });
}
