import type { FallbackConfig } from '../config.ts';
import type { Circuit, CircuitEntry } from '../gateways/circuit.ts';
import type { AttemptOutcome, Gateway } from '../gateways/gateway.ts';
import type { DeadLetterCode, LookUp } from '../ledger/dead-letters.ts';
import type { Recorder } from '../ledger/recorder.ts';
import type { Logger } from '../logger.ts';
import {
  amountTextOf,
  correlationIdOf,
  type GatewayName,
  type Payment,
  parseCorrelationId,
  parsePayment,
} from '../payment.ts';
import { mayFallBackAfter, patienceMs } from './route.ts';

/**
 * One run of a payment's job, from a worker taking it to its leaving the worker again.
 *
 * What survives a crash is in the job, and only what is written anyway: the mark, and two counters of BullMQ from which
 * `earlierRunsAreClean` is read (see payment-worker.ts). The states between runs, and where the next run goes:
 *
 * | state      | earlier runs | mark     | may be paid at      | the next run                                       |
 * |------------|--------------|----------|---------------------|----------------------------------------------------|
 * | fresh      | clean        | none     | nowhere             | primary; fallback if the routing rule allows       |
 * | unresolved | not clean    | none     | primary             | primary, until it answers 2xx or 422               |
 * | marked     | any          | fallback | fallback            | fallback, until it answers 2xx or 422              |
 *
 * A crash, or a stop past the job's lock, at any point of a run:
 * - before the first send: nothing happened. The next run finds the counters uneven and counts as unresolved, which only
 *   costs it the fallback.
 * - between send and answer, or between answer and record: the next run sends again to the same gateway, is answered 422
 *   and records what the gateway holds.
 * - between the mark and the send to the fallback: the next run goes to the fallback.
 * - between the decision for the fallback and the mark: the mark is written only while this run owns the job's lock, so
 *   a run that was stopped and overtaken here cannot send to the fallback what its successor pays at the primary.
 * - between record and completion: the next run finds the payment in the ledger.
 * - between a dead letter's row and the end of its job: the next run looks the row up, stays at the row's gateway, and
 *   pays or opens the same row again.
 * The job of an id posted again after it was paid is fresh, wherever it was paid: the ledger is asked before the first send.
 */
export interface PaymentRun {
  readonly jobId: string;
  readonly payload: unknown;
  /** The payload as it was posted; undefined when the job has lost it. */
  payloadText(): Promise<string | undefined>;
  /** Runs started, this one included. */
  readonly attempts: number;
  readonly acceptedAt: Date;
  /** Since the payment was accepted, by the clocks of API and worker. */
  readonly ageMs: number;
  /** Every earlier run is known to have ended without a payment and without an unknown attempt. */
  readonly earlierRunsAreClean: boolean;
  readonly isMarkedForFallback: boolean;
  /**
   * Writes the mark, which from then on keeps the payment at the fallback, or takes it away again.
   * @returns false when this run no longer owns the job; then nothing was written.
   */
  markForFallback(marked: boolean): Promise<boolean>;
}

/** The payment can never be made; its row among the dead letters is committed. The message is the reason shown. */
export class DeadLetterError extends Error {
  override readonly name = 'DeadLetterError';
}

/** The payment was not made in this run; the job goes back to the queue. The message is the reason shown. */
export class RequeueError extends Error {
  override readonly name = 'RequeueError';
  /** True when it is certain that no attempt of this run was or will be paid. */
  readonly isClean: boolean;
  /** False: at once, for whoever works next. True: after a backoff. */
  readonly backOff: boolean;
  constructor(message: string, { isClean, backOff }: { isClean: boolean; backOff: boolean }) {
    super(message);
    this.isClean = isClean;
    this.backOff = backOff;
  }
}

/** A gateway with the circuit that guards it. */
export interface GuardedGateway {
  readonly gateway: Gateway;
  readonly circuit: Circuit;
}

export interface ProcessingDeps {
  readonly primary: GuardedGateway;
  readonly fallback: GuardedGateway;
  readonly recorder: Pick<Recorder, 'lookUp' | 'record' | 'bury'>;
  readonly policy: FallbackConfig;
  readonly logger: Logger;
}

/**
 * Pays one payment at one gateway and records it.
 * Resolves once the payment is in the ledger.
 * @throws DeadLetterError, RequeueError
 */
export async function processPayment(run: PaymentRun, deps: ProcessingDeps): Promise<void> {
  const parsed = parsePayment(run.payload);
  if ('faults' in parsed) {
    const reason = parsed.faults.map(({ param, message }) => `${param} ${message}`).join('; ');
    throw await unpayable(reason, run, deps);
  }
  const { payment } = parsed;
  const { isRecorded, tiedTo } = await lookUp(payment, deps);
  if (isRecorded) return;
  if (run.isMarkedForFallback) return payAtFallback(payment, run, deps);
  if (tiedTo === 'fallback') {
    // An older worker does not look dead letters up; it knows the mark.
    if (!(await run.markForFallback(true))) throw overtaken();
    return payAtFallback(payment, run, deps);
  }
  return payAtPrimary(payment, tiedTo === undefined ? run : { ...run, earlierRunsAreClean: false }, deps);
}

async function lookUp(payment: Payment, { recorder }: ProcessingDeps): Promise<LookUp> {
  try {
    return await recorder.lookUp(payment.correlationId);
  } catch (error) {
    throw new RequeueError(`the ledger could not be asked: ${(error as Error).message}`, {
      isClean: true,
      backOff: false,
    });
  }
}

/** Buries a payment whose payload can never be sent. */
async function unpayable(reason: string, run: PaymentRun, deps: ProcessingDeps): Promise<Error> {
  if ((await run.payloadText()) === undefined) {
    // What was known of earlier attempts went with the payload, so there may have been one.
    const gateway = run.isMarkedForFallback ? 'fallback' : 'default';
    return bury({ code: 'payload_missing', reason: 'the job has lost its payload', gateway }, run, deps);
  }
  // An earlier dead letter of this id may have left an attempt behind.
  const gateway = run.isMarkedForFallback ? 'fallback' : run.earlierRunsAreClean ? undefined : 'default';
  return bury({ code: 'invalid_payment', reason, gateway }, run, deps);
}

function rejected({ name }: Gateway, cause: string, run: PaymentRun, deps: ProcessingDeps): Promise<Error> {
  return bury({ code: 'rejected', reason: `the ${name} gateway refused it: ${cause}`, gateway: name }, run, deps);
}

/** Commits the payment's row among the dead letters. Resolves with the error that ends its run. */
async function bury(
  letter: { readonly code: DeadLetterCode; readonly reason: string; readonly gateway: GatewayName | undefined },
  run: PaymentRun,
  { recorder }: ProcessingDeps,
): Promise<Error> {
  try {
    await recorder.bury({
      ...letter,
      jobId: run.jobId,
      correlationId: correlationIdOf(run.payload) ?? parseCorrelationId(run.jobId),
      amountText: amountTextOf(run.payload),
      payload: await run.payloadText(),
      attempts: run.attempts,
      acceptedAt: run.acceptedAt,
    });
  } catch (error) {
    return new RequeueError(`the dead letter could not be kept: ${(error as Error).message}`, {
      isClean: letter.gateway === undefined,
      backOff: false,
    });
  }
  return new DeadLetterError(letter.code === 'rejected' ? letter.reason : `${letter.code}: ${letter.reason}`);
}

/** While neither gateway is to be used, how often a payment looks whether the fallback is. In memory: it costs nothing. */
const LOOK_AGAIN_MS = 250;

async function payAtPrimary(payment: Payment, run: PaymentRun, deps: ProcessingDeps): Promise<void> {
  const { primary, fallback, policy } = deps;
  const startedAtMs = performance.now();
  let isClean = true;
  for (;;) {
    const history = {
      primaryIsClean: isClean && run.earlierRunsAreClean,
      ageMs: run.ageMs + performance.now() - startedAtMs,
    };
    const patience = patienceMs(history, primary.circuit.openBecause, policy);
    const entry = await primary.circuit.enter(
      fallback.circuit.isAccepting ? patience : Math.max(patience, LOOK_AGAIN_MS),
    );
    if (entry === 'shut_down') throw shuttingDown(isClean);
    if (entry === 'reason_changed') continue;
    if (entry === 'gave_up') {
      if (fallback.circuit.isAccepting) return changeToFallback(payment, run, deps);
      continue;
    }

    const attempt = await attemptAt(primary, payment, entry);
    switch (attempt.kind) {
      case 'paid':
      case 'already_paid':
        return settle(payment, primary.gateway, attempt, deps);
      case 'invalid':
        throw await rejected(primary.gateway, attempt.cause, run, deps);
      case 'unknown':
        isClean = false;
        break;
      case 'not_sent':
      case 'refused':
        if (mayFallBackAfter(attempt, history, policy) && fallback.circuit.isAccepting) {
          return changeToFallback(payment, run, deps);
        }
        break;
    }
    // A probe keeps its job: handing it back for every try of a long outage would be a churn in Redis.
    if (entry === 'passed') throw notPaid(primary.gateway, attempt, { isClean });
  }
}

async function changeToFallback(payment: Payment, run: PaymentRun, deps: ProcessingDeps): Promise<void> {
  if (!(await run.markForFallback(true))) throw overtaken();
  const { fallback } = deps;
  const entry = await fallback.circuit.enter(0);
  const attempt = entry === 'passed' || entry === 'probe' ? await attemptAt(fallback, payment, entry) : undefined;
  switch (attempt?.kind) {
    case 'paid':
    case 'already_paid':
      return settle(payment, fallback.gateway, attempt, deps);
    case 'invalid':
      throw await rejected(fallback.gateway, attempt.cause, run, deps);
    case 'unknown':
      throw notPaid(fallback.gateway, attempt, { isClean: false });
    case 'not_sent':
    case 'refused':
      // The fallback certainly has it not, so the payment is free again to go where it can be paid.
      throw notPaid(fallback.gateway, attempt, { isClean: await run.markForFallback(false) });
    case undefined:
      // Another payment was quicker to find the fallback accepting.
      throw new RequeueError('no gateway is to be used', { isClean: await run.markForFallback(false), backOff: true });
  }
}

/** For a payment that was marked in an earlier run, which may have been paid by it. */
async function payAtFallback(payment: Payment, run: PaymentRun, deps: ProcessingDeps): Promise<void> {
  const { fallback } = deps;
  for (;;) {
    const entry = await fallback.circuit.enter(Number.POSITIVE_INFINITY);
    if (entry === 'shut_down') throw shuttingDown(false);
    if (entry === 'reason_changed' || entry === 'gave_up') continue;
    const attempt = await attemptAt(fallback, payment, entry);
    switch (attempt.kind) {
      case 'paid':
      case 'already_paid':
        return settle(payment, fallback.gateway, attempt, deps);
      case 'invalid':
        throw await rejected(fallback.gateway, attempt.cause, run, deps);
      case 'unknown':
      case 'not_sent':
      case 'refused':
        if (entry === 'passed') throw notPaid(fallback.gateway, attempt, { isClean: false });
    }
  }
}

function overtaken(): RequeueError {
  return new RequeueError('another worker has taken the payment over', { isClean: false, backOff: true });
}

function shuttingDown(isClean: boolean): RequeueError {
  return new RequeueError('the worker is shutting down', { isClean, backOff: false });
}

function notPaid(
  { name }: Gateway,
  attempt: Extract<AttemptOutcome, { cause: string }>,
  { isClean }: { isClean: boolean },
): RequeueError {
  return new RequeueError(`${name} gateway: ${attempt.kind}, ${attempt.cause}`, { isClean, backOff: true });
}

/** Makes one attempt and tells the circuit how it went. */
async function attemptAt(
  { gateway, circuit }: GuardedGateway,
  payment: Payment,
  entry: CircuitEntry,
): Promise<AttemptOutcome> {
  const attempt = await gateway.send(payment);
  switch (attempt.kind) {
    case 'paid':
    case 'already_paid':
    case 'invalid':
      circuit.succeeded();
      break;
    case 'not_sent':
      if (attempt.reason === 'pool_timeout') circuit.neutral(entry);
      else circuit.failed(entry, 'not_sent');
      break;
    case 'refused':
    case 'unknown':
      circuit.failed(entry, 'other');
      break;
  }
  return attempt;
}

/** Records what the gateway holds. */
async function settle(
  payment: Payment,
  gateway: Gateway,
  attempt: Extract<AttemptOutcome, { kind: 'paid' | 'already_paid' }>,
  { recorder, logger }: ProcessingDeps,
): Promise<void> {
  const held =
    attempt.kind === 'paid'
      ? { amountCents: payment.amountCents, requestedAt: attempt.requestedAt }
      : await gateway.findPayment(payment.correlationId);
  if (held === undefined) {
    throw new RequeueError(`the ${gateway.name} gateway has the payment but did not say what it holds`, {
      isClean: false,
      backOff: true,
    });
  }
  try {
    await recorder.record({ correlationId: payment.correlationId, gateway: gateway.name, ...held });
  } catch (error) {
    throw new RequeueError(`paid at the ${gateway.name} gateway, not recorded yet: ${(error as Error).message}`, {
      isClean: false,
      backOff: true,
    });
  }
  // winston writes the line before it looks at the level.
  if (logger.isDebugEnabled())
    logger.debug('payment recorded', { correlationId: payment.correlationId, gateway: gateway.name });
}
