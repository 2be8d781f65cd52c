import type { LedgerByHand, Tie } from '../ledger/by-hand.ts';
import type { PaymentInLedger } from '../ledger/find-payment.ts';
import type { Ledger } from '../ledger/ledger.ts';
import { type GatewayName, parseAmountCents } from '../payment.ts';
import type { FoundJob, PaymentFinder, QueuedJob } from '../queue/find-payment.ts';
import { IN_FLIGHT, NO_NOTE, Refused } from './refusal.ts';

/** All that the stores have on one id, read in the order that payment-status.ts explains: the queue first. */
export interface UnresolvedPayment {
  readonly correlationId: string;
  readonly job: FoundJob | undefined;
  readonly inLedger: PaymentInLedger;
  readonly ties: readonly Tie[];
  /** The only gateway that may get this id, by the rules of the worker (payment-run.ts). */
  readonly boundTo: GatewayName | undefined;
  /** As the payment was posted; undefined when nobody knows it. */
  readonly amountCents: number | undefined;
}

export interface ReadDeps {
  readonly jobs: PaymentFinder;
  readonly ledger: Pick<Ledger, 'find'>;
  readonly byHand: Pick<LedgerByHand, 'ties'>;
}

/** @throws QueueUnavailableError, LedgerUnavailableError, BusyError */
export async function readPayment(correlationId: string, deps: ReadDeps): Promise<UnresolvedPayment> {
  const [job] = await deps.jobs.find([correlationId]);
  if (job instanceof Error) throw job;
  const inLedger = (await deps.ledger.find([correlationId])).get(correlationId)!;
  const ties = await deps.byHand.ties(correlationId);
  const boundTo = boundToOf(job) ?? ties.at(-1)?.gateway ?? (mayBeAtPrimary(job) ? 'primary' : undefined);
  return { correlationId, job, inLedger, ties, boundTo, amountCents: amountOf(job, inLedger) };
}

/** What was known before a change, for the trail. Fields that are undefined are left out of its JSON. */
export function describeBefore({ job, inLedger, ties, boundTo }: UnresolvedPayment): Record<string, unknown> {
  const { recorded, deadLetter } = inLedger;
  return {
    boundTo,
    ...(job && { job: job.kind === 'failed' ? describeFailed(job) : describeQueued(job) }),
    ...(recorded && { recorded }),
    ...(deadLetter && { deadLetter }),
    ...(ties.length > 0 && { ties: ties.map(({ gateway }) => gateway) }),
  };
}

/**
 * The least time that may have passed since the last attempt, in ms.
 * @param nowMs Redis' time
 * @throws Refused when it is in flight, or when its last run has left no note of the time
 */
export function ageOfLastAttempt({ job, ties }: UnresolvedPayment, nowMs: number): number {
  const ages = ties.map(({ ageMs }) => ageMs);
  if (job?.kind === 'failed') ages.push(nowMs - (job.job.diedAt?.getTime() ?? nowMs));
  if (job?.kind === 'queued') {
    if (job.lock !== undefined) throw new Refused('in_flight', IN_FLIGHT);
    // A job without a run is tied by its dead letter alone.
    if (job.attempts > 0) {
      if (job.attemptedAt === undefined) throw new Refused('too_recent', NO_NOTE);
      ages.push(nowMs - job.attemptedAt.getTime());
    }
  }
  return Math.min(...ages);
}

function describeQueued({ attempts, notClean, doubts, boundTo, noted, failure, attemptedAt, released }: QueuedJob) {
  return { attempts, notClean, doubts, boundTo, ...noted, failure, attemptedAt, released };
}

function describeFailed({ job }: Extract<FoundJob, { kind: 'failed' }>) {
  const { attempts, isClean, isBoundToFallback, reason } = job;
  return { failed: true, attempts, isClean, isBoundToFallback, reason };
}

function boundToOf(job: FoundJob | undefined): GatewayName | undefined {
  if (job?.kind === 'failed') return job.job.isBoundToFallback ? 'fallback' : undefined;
  return job?.boundTo;
}

function mayBeAtPrimary(job: FoundJob | undefined): boolean {
  if (job?.kind === 'queued') return job.notClean > 0 || job.doubts > 0 || job.noted !== undefined;
  return job !== undefined && !job.job.isClean;
}

function amountOf(job: FoundJob | undefined, { deadLetter }: PaymentInLedger): number | undefined {
  if (job?.kind === 'queued') return amountIn(job.data);
  return deadLetter?.amountText === undefined ? undefined : parseAmountCents(Number(deadLetter.amountText));
}

function amountIn(data: string | undefined): number | undefined {
  try {
    return parseAmountCents((JSON.parse(data ?? 'null') as { amount?: unknown } | null)?.amount);
  } catch {
    return undefined;
  }
}
