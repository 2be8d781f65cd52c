import type { FallbackConfig } from '../config.ts';
import type { Circuit, CircuitResult } from '../gateways/circuit.ts';
import type { AttemptOutcome, FailedAttempt, Gateway, PaymentOnRecord } from '../gateways/gateway.ts';
import type { DeadLetter, DeadLetterCode } from '../ledger/dead-letters.ts';
import type { Recorder } from '../ledger/recorder.ts';
import {
  amountTextOf,
  correlationIdOf,
  type GatewayName,
  type Payment,
  parseCorrelationId,
  parsePayment,
} from '../payment.ts';
import type { Logger } from '../process/logger.ts';
import { DeadLetterError, type PaymentRun, RequeueError, type RunEnd } from './payment-run.ts';
import { mayFallBackAfter, mayFallBackInstead, patienceMs } from './route.ts';

/** A gateway with the circuit that guards it. */
export interface GuardedGateway {
  readonly gateway: Gateway;
  readonly circuit: Circuit;
  /** When this process last saw it pay, by Redis' clock in ms; 0 before the first. */
  lastPaidAtMs: number;
}

export interface ProcessingDeps {
  readonly primary: GuardedGateway;
  readonly fallback: GuardedGateway;
  readonly recorder: Pick<Recorder, 'lookUp' | 'record' | 'bury'>;
  readonly policy: FallbackConfig;
  /** A rejection must have lasted so long, in ms (GATEWAY_REJECT_AFTER_MS). */
  readonly rejectAfterMs: number;
  /** Redis' time, in ms. */
  readonly nowMs: () => number;
  readonly logger: Logger;
}

/** A payment at one gateway in this run, with what its attempts there have come to. */
interface Visit {
  readonly payment: Payment;
  readonly run: PaymentRun;
  readonly at: GuardedGateway;
  sends: number;
  failures: number;
  /** An attempt of this run may be paid. */
  hadUnknown: boolean;
  hadDoubt: boolean;
  /** As `performance.now()` counts: the gateway asked this payment to wait. */
  notBeforeMs: number;
}

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
  const onlyAt = run.boundTo ?? tiedTo ?? (mayBeAtPrimary(run) ? 'primary' : undefined);
  if (deps.policy.on === 'never' && onlyAt !== 'fallback' && (await recordIfAtFallback(payment, run, deps))) return;
  if (onlyAt === undefined) return payFree(payment, run, deps);
  // Written down before the first send, for a worker that knows nothing of dead letters.
  if (onlyAt === 'fallback' && run.boundTo === undefined) await run.bindTo('fallback');
  return payTied(visitAt(onlyAt === 'fallback' ? deps.fallback : deps.primary, payment, run), deps);
}

async function validPayment(run: PaymentRun, deps: ProcessingDeps): Promise<Payment> {
  const parsed = parsePayment(run.payload);
  if ('payment' in parsed) return parsed.payment;
  if ((await payloadTextOf(run)) === undefined) {
    // What was known of earlier attempts went with the payload, so there may have been one.
    const why = 'the job has lost its payload: Redis evicted it (maxmemory-policy must be noeviction)';
    return bury('payload_missing', why, run.boundTo ?? 'primary', run, deps);
  }
  // An earlier dead letter of this id may have left an attempt behind.
  const tiedTo = run.boundTo ?? (mayBeAtPrimary(run) ? 'primary' : undefined);
  const faults = parsed.faults.map(({ param, message }) => `${param} ${message}`).join('; ');
  return bury('invalid_payment', faults, tiedTo, run, deps);
}

async function payloadTextOf(run: PaymentRun): Promise<string | undefined> {
  try {
    return await run.readPayloadText();
  } catch (error) {
    const message = `the payload could not be read: ${(error as Error).message}`;
    throw new RequeueError(message, { code: 'queue_unavailable', end: 'clean', pause: 'backoff' });
  }
}

async function lookUp(payment: Payment, { recorder }: ProcessingDeps): ReturnType<Recorder['lookUp']> {
  try {
    return await recorder.lookUp(payment.correlationId);
  } catch (error) {
    const message = `ledger lookup failed: ${(error as Error).message}`;
    throw new RequeueError(message, { code: 'ledger_unavailable', end: 'clean', pause: 'backoff' });
  }
}

function mayBeAtPrimary({ history }: PaymentRun): boolean {
  return history.isUnresolved || history.doubts > 0;
}

function visitAt(at: GuardedGateway, payment: Payment, run: PaymentRun): Visit {
  const notBeforeMs = Number.NEGATIVE_INFINITY;
  return { payment, run, at, sends: 0, failures: 0, hadUnknown: false, hadDoubt: false, notBeforeMs };
}

/** How often a waiting payment re-checks the fallback while neither gateway accepts. In memory: it costs nothing. */
const LOOK_AGAIN_MS = 250;

/** Pays where the routing rule says, as long as no attempt may have been paid. */
async function payFree(payment: Payment, run: PaymentRun, deps: ProcessingDeps): Promise<void> {
  const { primary, fallback, policy } = deps;
  const visit = visitAt(primary, payment, run);
  const history = {
    isFree: true,
    // It grows while the payment waits, and while an attempt takes its time.
    get ageMs() {
      return run.ageMs;
    },
  };
  for (;;) {
    const isPrimaryClosed = primary.circuit.cause === undefined;
    if (isPrimaryClosed && mayFallBackInstead(history, policy, primary.gateway) && fallback.circuit.isAccepting) {
      return changeToFallback(payment, run, deps);
    }
    const patience = patienceMs(history, primary.circuit.cause, policy);
    const maxWaitMs = fallback.circuit.isAccepting ? patience : Math.max(patience, LOOK_AGAIN_MS);
    const result = await tryAt(visit, { isTied: false, maxWaitMs }, deps);
    switch (result.kind) {
      case 'paid':
      case 'already_paid':
        return settle(visit, result.onRecord, deps);
      case 'not_tried':
        if (result.why === 'closed' || result.why === 'no_place') throw requeue(visit, result, { isTied: false });
        if (result.why === 'gave_up' && fallback.circuit.isAccepting) return changeToFallback(payment, run, deps);
        break;
      case 'doubtful':
      case 'unknown':
        stayOrRequeue(visit, result);
        return payTied(visit, deps);
      case 'not_sent':
      case 'refused':
        if (mayFallBackAfter(result, history, policy) && fallback.circuit.isAccepting) {
          return changeToFallback(payment, run, deps);
        }
        // While the circuit is open the payment keeps its job: handing it back would be a churn in Redis.
        if (primary.circuit.cause === undefined) throw requeue(visit, result, { isTied: false });
    }
  }
}

/**
 * After a restore the ledger may lack payments: what the fallback has on record must not be sent to the primary. Asked in
 * every run that may send there: an earlier one may have ended before it was told.
 */
async function recordIfAtFallback(payment: Payment, run: PaymentRun, deps: ProcessingDeps): Promise<boolean> {
  const visit = visitAt(deps.fallback, payment, run);
  const found = await deps.fallback.gateway.findPayment(payment.correlationId);
  if (found.kind === 'not_found') return false;
  if (found.kind === 'on_record') {
    // If it cannot be recorded now, the next run must not take it for one that may be at the primary.
    await run.bindTo('fallback');
    await settle(visit, found.onRecord, deps);
    return true;
  }
  const message = `FALLBACK_ON=never: the fallback gateway did not tell what it has on record: ${found.cause.detail}`;
  throw new RequeueError(message, { code: found.cause.code, end: 'clean', pause: 'tied' });
}

async function changeToFallback(payment: Payment, run: PaymentRun, deps: ProcessingDeps): Promise<void> {
  const visit = visitAt(deps.fallback, payment, run);
  // Bound only once the circuit lets it through: those that it does not let cost Redis nothing.
  const beforeSend = () => run.bindTo('fallback');
  const result = await tryAt(visit, { isTied: false, maxWaitMs: 0, beforeSend }, deps);
  switch (result.kind) {
    case 'paid':
    case 'already_paid':
      return settle(visit, result.onRecord, deps);
    case 'doubtful':
    case 'unknown':
      stayOrRequeue(visit, result);
      return payTied(visit, deps);
    case 'not_tried':
      throw requeue(visit, result, { isTied: false });
    case 'not_sent':
    case 'refused':
      // The fallback certainly does not have it, so the payment is free again to go where it can be paid.
      await run.release();
      throw requeue(visit, result, { isTied: false });
  }
}

/** Pays at the only gateway that may get the payment. */
async function payTied(visit: Visit, deps: ProcessingDeps): Promise<void> {
  for (;;) {
    const result = await tryAt(visit, { isTied: true, maxWaitMs: Number.POSITIVE_INFINITY }, deps);
    if (result.kind === 'paid' || result.kind === 'already_paid') return settle(visit, result.onRecord, deps);
    if (result.kind === 'doubtful') {
      const onRecord = await afterDoubt(visit, result, deps);
      if (onRecord) return settle(visit, onRecord, deps);
    }
    stayOrRequeue(visit, result);
  }
}

/**
 * After a tied payment was not paid: it stays in hand while the circuit may want it as a probe, and otherwise goes back.
 * @throws RequeueError
 */
function stayOrRequeue(visit: Visit, result: Exclude<CircuitResult, Paid>): void {
  if (result.kind === 'not_tried') {
    if (result.why === 'closed' || result.why === 'no_place') throw requeue(visit, result, { isTied: true });
    return;
  }
  // A doubt counts when its run ends. In hand as the only probe, a payment would never have a second one.
  const isWanted = visit.at.circuit.cause !== undefined && result.kind !== 'doubtful';
  if (!isWanted) throw requeue(visit, result, { isTied: true });
}

type Paid = Extract<AttemptOutcome, { kind: 'paid' | 'already_paid' }>;

/** Makes one attempt, when the circuit lets it, and notes what it means for this payment. */
async function tryAt(
  visit: Visit,
  { isTied, maxWaitMs, beforeSend }: { isTied: boolean; maxWaitMs: number; beforeSend?: () => Promise<void> },
  { nowMs }: ProcessingDeps,
): Promise<CircuitResult> {
  const { payment, run, at } = visit;
  const { correlationId } = payment;
  // Also a free one of an earlier run: as the probe into a silence it would be tied from then on, which is to be spared.
  const isNew = !isTied && visit.failures === 0;
  const send = () => {
    visit.sends += 1;
    return at.gateway.send(payment, {
      isFirst: !isTied && run.history.runs === 0 && visit.sends === 1,
      isUnresolved: isTied,
      onNewConnection: visit.hadDoubt || run.history.doubts > 0,
    });
  };
  const result = await at.circuit.run(
    { correlationId, isNew, isTied, hasHadItsTurn: visit.failures > 0, maxWaitMs, notBeforeMs: visit.notBeforeMs },
    beforeSend ? () => beforeSend().then(send) : send,
  );
  switch (result.kind) {
    case 'paid':
      at.lastPaidAtMs = nowMs();
      break;
    case 'unknown':
    case 'doubtful':
    case 'refused':
    case 'not_sent':
      visit.failures += 1;
      if (result.kind === 'unknown') visit.hadUnknown = true;
      if (result.kind === 'doubtful') visit.hadDoubt = true;
      if (result.retryAfterMs !== undefined) visit.notBeforeMs = performance.now() + result.retryAfterMs;
  }
  return result;
}

/** Doubts over new connections, this one included, after which a payment may count as rejected. */
const DOUBTS_TO_REJECT = 3;

/**
 * A 400 may come from anybody and for anything. If an attempt may be paid, the look-up may tell so. Otherwise it takes
 * several doubts to believe them: over new connections, for `rejectAfterMs`, while the gateway paid another payment
 * meanwhile and does not have this one on record.
 * @returns what is on record after all.
 * @throws DeadLetterError when the gateway has certainly rejected it.
 */
async function afterDoubt(
  { payment, run, at, hadUnknown }: Visit,
  { cause }: FailedAttempt,
  deps: ProcessingDeps,
): Promise<PaymentOnRecord | undefined> {
  const { doubts, doubtedSinceMs, isUnresolved } = run.history;
  const mayBePaid = hadUnknown || isUnresolved;
  const isBelievable =
    // The first doubt may have come over a keep-alive connection; those of later runs have not.
    doubts >= DOUBTS_TO_REJECT &&
    doubtedSinceMs !== undefined &&
    deps.nowMs() - doubtedSinceMs >= deps.rejectAfterMs &&
    at.lastPaidAtMs > doubtedSinceMs;
  if (!mayBePaid && !isBelievable) return undefined;
  const found = await at.gateway.findPayment(payment.correlationId);
  if (found.kind === 'on_record') return found.onRecord;
  if (found.kind === 'not_found' && !mayBePaid) {
    return bury('rejected', `${at.gateway.name} gateway: ${cause.detail}`, at.gateway.name, run, deps);
  }
  return undefined;
}

/** Writes the dead letter, then ends the run as one. */
async function bury(
  code: DeadLetterCode,
  why: string,
  gateway: GatewayName | undefined,
  run: PaymentRun,
  deps: ProcessingDeps,
): Promise<never> {
  const letter: DeadLetter = {
    jobId: run.jobId,
    correlationId: correlationIdOf(run.payload) ?? parseCorrelationId(run.jobId),
    amountText: amountTextOf(run.payload),
    payload: await payloadTextOf(run),
    code,
    reason: why,
    gateway,
    attempts: run.history.runs + 1,
    acceptedAt: run.acceptedAt,
  };
  try {
    await deps.recorder.bury(letter);
  } catch (error) {
    const message = `dead letter not recorded yet: ${(error as Error).message}`;
    throw new RequeueError(message, { code: 'ledger_unavailable', end: 'clean', pause: 'backoff' });
  }
  throw new DeadLetterError(`${code}: ${why}`);
}

/** How a payment that was not paid goes back to the queue. */
function requeue(
  visit: Visit,
  result: FailedAttempt | Extract<CircuitResult, { kind: 'not_tried' }>,
  { isTied }: { isTied: boolean },
): RequeueError {
  const { at, run, hadUnknown, hadDoubt, notBeforeMs } = visit;
  const end: RunEnd = hadUnknown ? 'unresolved' : hadDoubt ? 'doubtful' : 'clean';
  if (result.kind === 'not_tried' && result.why === 'closed') {
    return new RequeueError('the worker is shutting down', { code: 'shutting_down', end, pause: 'none' });
  }
  const cause = result.kind === 'not_tried' ? at.circuit.cause : result.cause;
  const said = result.kind === 'not_tried' ? 'not accepting' : result.kind;
  const isDoubtedOnly = end !== 'unresolved' && !run.history.isUnresolved && (hadDoubt || run.history.doubts > 0);
  return new RequeueError(`${at.gateway.name} gateway: ${said}${cause ? `, ${cause.detail}` : ''}`, {
    code: cause?.code ?? 'not_accepting',
    end,
    pause: !isTied ? 'backoff' : isDoubtedOnly ? 'doubted' : 'tied',
    atLeastMs: Math.max(0, notBeforeMs - performance.now()),
  });
}

/** Records what the gateway has on record. */
async function settle(
  { payment: { correlationId }, at: { gateway } }: Visit,
  onRecord: PaymentOnRecord,
  { recorder, logger }: ProcessingDeps,
): Promise<void> {
  try {
    await recorder.record({ correlationId, gateway: gateway.name, ...onRecord });
  } catch (error) {
    throw new RequeueError(`paid at the ${gateway.name} gateway, not recorded yet: ${(error as Error).message}`, {
      code: 'ledger_unavailable',
      end: 'unresolved',
      pause: 'backoff',
    });
  }
  // winston writes the line before it looks at the level.
  if (logger.isDebugEnabled()) logger.debug('payment recorded', { correlationId, gateway: gateway.name });
}
