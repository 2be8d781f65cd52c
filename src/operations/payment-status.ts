import { BatcherOverflowError, createBatcher } from '../batcher.ts';
import { BusyError, InvalidRequestError, NotFoundError, QueueUnavailableError, type ServiceError } from '../errors.ts';
import type { DeadLetterRow, PaymentInLedger } from '../ledger/find-payment.ts';
import type { Ledger } from '../ledger/ledger.ts';
import { type GatewayName, parseAmountCents, parseCorrelationId } from '../payment.ts';
import type { FailedJob } from '../queue/failed-jobs.ts';
import { type FoundJob, MAX_FOUND, type PaymentFinder } from '../queue/find-payment.ts';
import type { QueueState, QueueWatch } from '../queue/queue-state.ts';
import { toDeadLetter } from './bury-failed-jobs.ts';
import { ofDeadLetter, type Reason, reasonOf, type UnpaidState } from './payment-reason.ts';

/** Where a payment is. Amounts are in units of the currency. Undefined fields are not known. */
export type PaymentStatus = PaidStatus | UnpaidStatus;

export interface PaidStatus {
  readonly correlationId: string;
  readonly state: 'paid';
  readonly amount: number;
  readonly gateway: GatewayName;
  /** The time that the gateway has on record. */
  readonly requestedAt: Date;
  readonly recordedAt: Date;
}

export interface UnpaidStatus extends Reason {
  readonly correlationId: string;
  readonly state: UnpaidState;
  /** Undefined when the payload has no valid amount. */
  readonly amount: number | undefined;
  readonly acceptedAt: Date;
  /** Runs started. */
  readonly attempts: number;
  /** The only gateway that may get this id. Undefined: either, or none. */
  readonly boundTo: GatewayName | undefined;
  /** An operator has declared that this gateway has not made it. Who it was is in the trail. */
  readonly released?: { readonly gateway: GatewayName; readonly at: Date } | undefined;
}

/**
 * Finds out where a payment is. Calls of one moment share their reads. One batch is under way, on one connection to
 * PostgreSQL, so many calls slow down each other and neither summaries nor the accepting of payments.
 * @throws InvalidRequestError when the id is no UUID
 * @throws NotFoundError when nobody posted it, it was purged, or it is an invalid payment beyond DEAD_LETTERS_MAX_INVALID
 * @throws QueueUnavailableError, LedgerUnavailableError when a store that may have it does not respond
 * @throws BusyError when {@link MAX_PENDING} calls wait
 */
export type FindPaymentStatus = (id: string) => Promise<PaymentStatus>;

/** Upper bound on waiting calls. A batch takes a few milliseconds, so the last call waits some 100 ms. */
const MAX_PENDING = 1_000;

/** What the stores have on one id. The job was read before the row. */
interface Found {
  readonly job: FoundJob | undefined | QueueUnavailableError;
  readonly row: PaymentInLedger;
}

/**
 * The stores are read one after the other, and payments move meanwhile. Why the result is true nevertheless:
 *
 * **Redis first, then PostgreSQL.** Every end of a job comes after the commit of what replaces it: its payment's row or its
 * dead letter's row. So a job that is not in Redis at the first read has left its row before the second one.
 *
 * | movement                                       | the first read | the second read | the status                       |
 * |------------------------------------------------|----------------|-----------------|----------------------------------|
 * | posted before                                  | job            | -               | queued … unresolved              |
 * | recorded in between, job removed or not        | job            | payment         | paid                             |
 * | recorded, worker killed before the job's end   | job            | payment         | paid                             |
 * | recorded and removed before                    | -              | payment         | paid                             |
 * | buried: row committed, job not failed yet      | job            | open row        | the job's, as it is not over yet |
 * | buried: job failed; later trimmed from Redis   | failed or -    | open row        | dead_letter                      |
 * | buried by an older worker, not copied yet      | failed         | -               | dead_letter                      |
 * | dead letter retried or posted again            | job            | row, not closed | the job's                        |
 * | … in between                                   | failed or -    | row, not closed | dead_letter, or a second look    |
 * | paid, then posted again                        | job            | payment         | paid                             |
 * | a worker killed at any point                   | job            | any             | as above: no job ends by a crash |
 *
 * An unpaid status means that PostgreSQL had no payment after the call began. So of two calls, one after the other, the
 * second never takes a `paid` back. Only a purge does. It empties the queue before it commits, so that in between a payment
 * may be unknown or still a dead letter; what was in flight is recorded after it.
 *
 * **A second look** is taken at what had neither job nor payment and may have got a job in between: a first post, or a dead
 * letter that is `queued_again`. It is the same two reads again, because the job may have ended once more. A row that is still
 * `queued_again` without a job has lost it (decision 0008), and is a dead letter.
 *
 * **A store that is down**: without PostgreSQL nobody knows whether an id is paid, so every status waits for it. Redis does not
 * matter for a payment that is recorded. For every other one it does, also for a dead letter: it may be queued again.
 */
export function createPaymentStatus({
  jobs,
  ledger,
  queueWatch,
}: {
  jobs: PaymentFinder;
  ledger: Pick<Ledger, 'find'>;
  queueWatch: QueueWatch;
}): FindPaymentStatus {
  const batcher = createBatcher<string, PaymentStatus | ServiceError>({
    flush: findAll,
    maxItems: MAX_FOUND,
    maxPending: MAX_PENDING,
    // A ledger that hangs would make each batch wait for its time-out, one after the other.
    failsWaitingToo: true,
  });

  async function findAll(asked: readonly string[]): Promise<(PaymentStatus | ServiceError)[]> {
    const ids = [...new Set(asked)];
    const found = await look(ids);
    const unsure = ids.filter((id) => mayHaveGotAJob(found.get(id)!));
    if (unsure.length > 0) for (const [id, again] of await look(unsure)) found.set(id, again);
    const needsReason = [...found.values()].some(({ row, job }) => !row.recorded && isQueued(job));
    const queue = needsReason ? await readQueue() : undefined;
    return asked.map((id) => statusOf(id, found.get(id)!, queue));
  }

  async function look(ids: readonly string[]): Promise<Map<string, Found>> {
    const found = await jobs.find(ids);
    const rows = await ledger.find(ids);
    return new Map(ids.map((id, index) => [id, { job: found[index], row: rows.get(id)! }]));
  }

  async function readQueue(): Promise<QueueState | QueueUnavailableError> {
    try {
      return await queueWatch.read();
    } catch (error) {
      if (error instanceof QueueUnavailableError) return error;
      throw error;
    }
  }

  return async (id) => {
    const correlationId = parseCorrelationId(id);
    if (correlationId === undefined) {
      throw new InvalidRequestError([{ param: 'correlationId', message: 'must be a UUID' }]);
    }
    try {
      return (await batcher.add(correlationId)) as PaymentStatus;
    } catch (error) {
      if (!(error instanceof BatcherOverflowError)) throw error;
      throw new BusyError(`${MAX_PENDING} look-ups wait already`, { cause: error, retryAfterSeconds: 1 });
    }
  };
}

function mayHaveGotAJob({ job, row: { recorded, deadLetter } }: Found): boolean {
  return job === undefined && !recorded && (deadLetter === undefined || deadLetter.state === 'queued_again');
}

function isQueued(job: Found['job']): job is Extract<FoundJob, { kind: 'queued' }> {
  return job !== undefined && 'kind' in job && job.kind === 'queued';
}

/** @param queue the queue as a whole, where a payment has a job; an error: it could not be read */
function statusOf(
  correlationId: string,
  { job, row: { recorded, deadLetter } }: Found,
  queue: QueueState | QueueUnavailableError | undefined,
): PaymentStatus | ServiceError {
  if (recorded) {
    const { amountCents, ...payment } = recorded;
    return { correlationId, state: 'paid', amount: amountCents / 100, ...payment };
  }
  if (job instanceof QueueUnavailableError) return job;
  if (isQueued(job)) {
    if (queue === undefined || queue instanceof QueueUnavailableError) return queue!;
    const { data, acceptedAt, attempts, released } = job;
    const { state, ...reason } = reasonOf(job, deadLetter, queue);
    return {
      correlationId,
      state,
      amount: amountOf(data),
      acceptedAt,
      attempts,
      ...reason,
      released: released && { gateway: released.gateway, at: released.at },
    };
  }
  // The row of an earlier death says nothing about the job that has failed since.
  const isOfThisJob = job === undefined || deadLetter?.acceptedAt.getTime() === job.job.acceptedAt.getTime();
  const letter = isOfThisJob ? deadLetter : toLetter(job.job);
  if (letter === undefined) return new NotFoundError(`no payment has the id ${correlationId}`);
  const { state, amountText, acceptedAt, attempts, gateway: boundTo } = letter;
  const isDiscarded = state === 'discarded';
  return {
    correlationId,
    state: isDiscarded ? 'discarded' : 'dead_letter',
    // An invalid payment whose id is valid has an invalid amount.
    amount: letter.code === 'invalid_payment' ? undefined : unitsOf(Number(amountText)),
    acceptedAt,
    attempts,
    boundTo: isDiscarded ? undefined : boundTo,
    ...ofDeadLetter(letter),
    ...(isDiscarded && { since: letter.stateAt }),
  };
}

/** A failed job without a row: an older worker buried it, and no newer one has copied it yet. */
function toLetter(job: FailedJob): DeadLetterRow {
  const diedAt = job.diedAt ?? job.acceptedAt;
  return { ...toDeadLetter(job), state: 'open', diedAt, stateAt: diedAt };
}

function amountOf(data: string | undefined): number | undefined {
  try {
    return unitsOf((JSON.parse(data ?? 'null') as { amount?: unknown } | null)?.amount);
  } catch {
    // Our API did not write this job.
    return undefined;
  }
}

function unitsOf(amount: unknown): number | undefined {
  const cents = parseAmountCents(amount);
  return cents === undefined ? undefined : cents / 100;
}
