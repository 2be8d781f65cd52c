import { setTimeout as sleep } from 'node:timers/promises';
import { type Batcher, createBatcher } from '../batcher.ts';
import { LedgerUnavailableError } from '../errors.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog, type Failure } from '../process/outage-log.ts';
import { events } from '../telemetry/events.ts';
import { type BuryResult, type DeadLetter, type DeadLetters, type LookUp, MAX_BURIED } from './dead-letters.ts';
import type { Ledger, PaidPayment } from './ledger.ts';

/** Why the ledger does not respond, and since when. */
export interface LedgerOutage extends Failure {
  readonly since: Date;
}

/** The worker's access to the ledger. Many payments share one statement. While PostgreSQL is down, all of them wait. */
export interface Recorder {
  /**
   * Resolves once the payment's row is committed, however long PostgreSQL is down.
   * @throws LedgerUnavailableError only after `abort()`. The payment may have been recorded.
   */
  record(payment: PaidPayment): Promise<void>;
  /**
   * Whether the payment is recorded, and to which gateway a dead letter of its id ties it. The state of that dead letter
   * becomes `queued_again`. Waits while PostgreSQL is down, or does not commit: a payment that cannot be recorded must not
   * be paid.
   * @throws LedgerUnavailableError after `abortLookUps()`.
   */
  lookUp(correlationId: string): Promise<LookUp>;
  /**
   * Resolves once the dead letter's row is committed, however long PostgreSQL is down. An invalid payment beyond
   * DEAD_LETTERS_MAX_INVALID is only counted.
   * @throws LedgerUnavailableError only after `abort()`. The row may have been committed.
   */
  bury(deadLetter: DeadLetter): Promise<void>;
  /** The longest one. Undefined while no statement of any payment is being repeated. */
  readonly outage: LedgerOutage | undefined;
  /** Rejects waiting look-ups, also during a statement. Paid payments keep waiting until they are recorded. */
  abortLookUps(): void;
  /** Rejects waiting payments and dead letters, because the process is about to end. Later ones get a single try. */
  abort(): void;
  /** Rejects new work. Resolves when all earlier work is settled. */
  close(): Promise<void>;
}

/** The pause between two tries while PostgreSQL is down. Work goes on at most so long after its recovery. */
const RETRY_MS = 250;

/**
 * How long the first payment of a batch waits for others, at most. Without the wait, at a few hundred payments a second most
 * statements would have one payment, and each payment would cost PostgreSQL and the worker several times as much
 * (rinha/NOTEBOOK.md). The wait of a look-up delays the payment, that of a record the worker's next payment. `join`
 * ends the wait when all payments of the worker wait.
 */
const LOOK_UP_WAIT_MS = 4;
const INSERT_WAIT_MS = 10;

/** How many reasons of payments beyond the bound the log distinguishes, and the quiet time that ends the count of a reason. */
const MAX_REASONS = 20;
const REASON_ENDS_AFTER_MS = 120_000;

/** Rows of one INSERT and ids of one SELECT. Statements of this size take a few milliseconds. */
const MAX_BATCH = 500;

export function createRecorder({
  table,
  deadLetters,
  logger,
  maxPending,
  waitingElsewhere = () => 0,
  lookUpWaitMs = LOOK_UP_WAIT_MS,
  insertWaitMs = INSERT_WAIT_MS,
}: {
  table: Pick<Ledger, 'insertPayments'>;
  deadLetters: Pick<DeadLetters, 'bury' | 'lookUp'>;
  logger: Logger;
  /**
   * Upper bound on in-flight payments, sized so that `add` never overflows. When so many wait here, no other can join them.
   * A bound above the worker's concurrency makes batches wait for nothing.
   */
  maxPending: number;
  /** How many of the in-flight payments wait at a gateway's circuit. They cannot join a batch meanwhile. */
  waitingElsewhere?: () => number;
  lookUpWaitMs?: number;
  insertWaitMs?: number;
}): Recorder {
  const noMoreLookUps = new AbortController();
  const noMoreInserts = new AbortController();
  /** One for each statement that is being repeated, the earliest first. */
  const outages = new Map<symbol, LedgerOutage>();

  const inserts = createBatcher<PaidPayment, undefined>({
    maxItems: MAX_BATCH,
    maxPending,
    maxWaitMs: insertWaitMs,
    failsWaitingToo: true,
    flush(payments) {
      if (events.batchFlushed.hasSubscribers) events.batchFlushed.publish({ batch: 'record', size: payments.length });
      return insert(payments);
    },
  });
  const burials = createBatcher<DeadLetter, BuryResult>({
    maxItems: MAX_BURIED,
    maxPending,
    failsWaitingToo: true,
    flush: (letters) => whenAvailable(() => deadLetters.bury(letters), noMoreInserts.signal),
  });
  const lookUps = createBatcher<string, LookUp>({
    maxItems: MAX_BATCH,
    maxPending,
    maxWaitMs: lookUpWaitMs,
    failsWaitingToo: true,
    async flush(ids) {
      // A PostgreSQL without its synchronous standby reads, but does not commit. So while a write is repeated, nothing is read.
      while (outages.size > 0) {
        await sleep(RETRY_MS, undefined, { signal: noMoreLookUps.signal }).catch(() => {
          throw shutDownBefore();
        });
      }
      const found = await whenAvailable(() => deadLetters.lookUp(ids), noMoreLookUps.signal);
      return ids.map((id) => found.get(id)!);
    },
  });

  /**
   * Adds an item to a batch. A batch waits for further payments, because a free place of the worker may bring one at any
   * moment. When all payments of the worker wait, here or elsewhere, no other can join, so all batches flush at once.
   */
  function join<Item, Result>(batch: Batcher<Item, Result>, item: Item): Promise<Result> {
    const result = batch.add(item);
    if (inserts.size + lookUps.size + burials.size + waitingElsewhere() >= maxPending) {
      for (const each of [inserts, lookUps, burials]) each.hurry();
    }
    return result;
  }

  const notKept = createOutageLog(logger, {
    message: 'invalid payments are not kept as dead letters: DEAD_LETTERS_MAX_INVALID of them are open',
    endMessage: 'no more invalid payments with this reason',
    endsAfterMs: REASON_ENDS_AFTER_MS,
  });
  /** A reason may quote what a client posted, so only MAX_REASONS bounds their number. */
  const reasons = new Set<string>();

  function count({ reason, jobId }: DeadLetter): void {
    if (reasons.size < MAX_REASONS) reasons.add(reason);
    notKept.failed({ code: reasons.has(reason) ? reason : 'another reason', detail: reason }, { jobId });
  }

  async function insert(payments: readonly PaidPayment[]): Promise<readonly (undefined | Error)[]> {
    try {
      await whenAvailable(() => table.insertPayments(payments), noMoreInserts.signal);
      return payments.map(() => undefined);
    } catch (error) {
      if (error instanceof LedgerUnavailableError) throw error;
      // PostgreSQL rejected the statement. One row at fault must not hold up the others.
      if (payments.length > 1) return (await Promise.all(payments.map((payment) => insert([payment])))).flat();
      const [payment] = payments;
      logger.error('a payment was paid, but cannot be recorded', { ...payment, cause: describeError(error) });
      return [error instanceof Error ? error : new Error(String(error))];
    }
  }

  /** Repeats the statement until PostgreSQL responds. The batcher flushes one batch at a time, so all of them wait. */
  async function whenAvailable<T>(statement: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const key = Symbol('statement');
    try {
      for (let tries = 1; ; tries += 1) {
        try {
          const result = await unlessAborted(statement(), signal);
          if (tries > 1) logger.info('the ledger is available again', { tries });
          return result;
        } catch (error) {
          if (!(error instanceof LedgerUnavailableError) || signal.aborted) throw error;
          const since = outages.get(key)?.since ?? new Date();
          outages.set(key, { code: error.code, detail: describeError(error.cause ?? error), since });
          if (tries === 1) {
            logger.warn('the ledger is unavailable', { code: error.code, cause: describeError(error) });
          }
          await sleep(RETRY_MS, undefined, { signal }).catch(() => {
            throw error;
          });
        }
      }
    } finally {
      outages.delete(key);
    }
  }

  return {
    async record(payment) {
      const startedAtMs = performance.now();
      await join(inserts, payment);
      if (!events.paymentPaid.hasSubscribers) return;
      const { gateway, amountCents } = payment;
      events.paymentPaid.publish({ gateway, amountCents, recordMs: performance.now() - startedAtMs });
    },
    lookUp: (correlationId) => join(lookUps, correlationId),
    async bury(deadLetter) {
      if ((await join(burials, deadLetter)) === 'beyond_bound') count(deadLetter);
      if (events.paymentDead.hasSubscribers) events.paymentDead.publish({ reason: deadLetter.code });
    },
    get outage() {
      return outages.values().next().value;
    },
    abortLookUps: () => noMoreLookUps.abort(),
    abort: () => noMoreInserts.abort(),
    async close() {
      await Promise.all([inserts.close(), burials.close(), lookUps.close()]);
    },
  };
}

/** The result of the statement, or a rejection as soon as the signal aborts: a hanging PostgreSQL must not delay a shutdown. */
function unlessAborted<T>(statement: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(shutDownBefore());
    signal.addEventListener('abort', onAbort, { once: true });
    statement.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

function shutDownBefore(): LedgerUnavailableError {
  return new LedgerUnavailableError('PostgreSQL had not responded before the shutdown');
}
