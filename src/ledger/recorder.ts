import { setTimeout as sleep } from 'node:timers/promises';
import { type Batcher, createBatcher } from '../batcher.ts';
import { LedgerUnavailableError } from '../errors.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';
import { type BuryResult, type DeadLetter, type DeadLetters, type LookUp, MAX_BURIED } from './dead-letters.ts';
import type { Ledger, PaidPayment } from './ledger.ts';

/** The worker's way to the ledger. Many payments share one statement; while PostgreSQL is away, everyone waits. */
export interface Recorder {
  /**
   * Resolves once the payment's row is committed, however long PostgreSQL is away.
   * @throws LedgerUnavailableError only after `abort()`; the payment may have been recorded.
   */
  record(payment: PaidPayment): Promise<void>;
  /**
   * Whether the payment is recorded, and to which gateway a dead letter of its id ties it; that dead letter is queued again
   * from then on. Waits while PostgreSQL is away: what cannot be recorded must not be paid.
   * @throws LedgerUnavailableError once `abortLookUps()` was called.
   */
  lookUp(correlationId: string): Promise<LookUp>;
  /**
   * Resolves once the dead letter's row is committed, however long PostgreSQL is away, or once an invalid payment beyond
   * DEAD_LETTERS_MAX_INVALID is counted instead.
   * @throws LedgerUnavailableError only after `abort()`; the row may have been committed.
   */
  bury(deadLetter: DeadLetter): Promise<void>;
  /** Ends the waiting of look-ups, for a statement under way as well. Payments already made keep trying to be recorded. */
  abortLookUps(): void;
  /** Ends the waiting of payments as well: the process is about to end. Who comes later has one try. */
  abort(): void;
  /** Refuses new work and resolves when all that was accepted is settled. */
  close(): Promise<void>;
}

/** The pause between two tries while PostgreSQL is away: work goes on within this time of its return. */
const RETRY_MS = 250;

/**
 * How long the first payment waits for others, at most. At a few hundred payments a second most statements would carry one
 * payment without it, and cost PostgreSQL and the worker several times as much for each (test/bench/RESULTS.md). Look-ups
 * delay the sending, records the freeing of the worker's place. A worker whose payments all wait has nobody to wait for:
 * see `join`.
 */
const LOOK_UP_WAIT_MS = 4;
const INSERT_WAIT_MS = 10;

/** How many reasons of payments that are not kept are told apart, and after which pause a reason's count ends. */
const MAX_REASONS = 20;
const REASON_ENDS_AFTER_MS = 120_000;

/** Rows of one INSERT, ids of one SELECT. Statements of this size take a few milliseconds. */
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
   * Payments the worker may hold at once. So nothing is ever refused for want of room; and when so many wait here, nobody
   * can join them. Larger than the worker's places: its batches wait in vain.
   */
  maxPending: number;
  /** How many of them wait for something else, and so are not on their way to a batch. */
  waitingElsewhere?: () => number;
  lookUpWaitMs?: number;
  insertWaitMs?: number;
}): Recorder {
  const noMoreLookUps = new AbortController();
  const noMoreInserts = new AbortController();

  const inserts = createBatcher<PaidPayment, undefined>({
    maxItems: MAX_BATCH,
    maxPending,
    maxWaitMs: insertWaitMs,
    failsWaitingToo: true,
    flush: (payments) => insert(payments),
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
      const found = await whenAvailable(() => deadLetters.lookUp(ids), noMoreLookUps.signal);
      return ids.map((id) => found.get(id)!);
    },
  });

  /**
   * A batch waits for those who could join it. Every payment of the worker comes to the batches, and a place that is free
   * may bring one at any moment. But when the worker's payments all wait, here or elsewhere, nobody is left who could come.
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
  /** Reasons may quote what was posted, so their number has no bound of its own. */
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
      // PostgreSQL refused the statement: the row at fault must not hold up the others.
      if (payments.length > 1) return (await Promise.all(payments.map((payment) => insert([payment])))).flat();
      const [payment] = payments;
      logger.error('a payment was made and cannot be recorded', { ...payment, cause: describeError(error) });
      return [error instanceof Error ? error : new Error(String(error))];
    }
  }

  /** Runs the statement until PostgreSQL answers. The batcher lets one run at a time, so the pause holds for all. */
  async function whenAvailable<T>(statement: () => Promise<T>, signal: AbortSignal): Promise<T> {
    for (let tries = 1; ; tries += 1) {
      try {
        const result = await unlessAborted(statement(), signal);
        if (tries > 1) logger.info('the ledger is available again', { tries });
        return result;
      } catch (error) {
        if (!(error instanceof LedgerUnavailableError) || signal.aborted) throw error;
        if (tries === 1) logger.warn('the ledger is unavailable', { cause: describeError(error) });
        await sleep(RETRY_MS, undefined, { signal }).catch(() => {
          throw error;
        });
      }
    }
  }

  return {
    async record(payment) {
      await join(inserts, payment);
    },
    lookUp: (correlationId) => join(lookUps, correlationId),
    async bury(deadLetter) {
      if ((await join(burials, deadLetter)) === 'beyond_bound') count(deadLetter);
    },
    abortLookUps: () => noMoreLookUps.abort(),
    abort: () => noMoreInserts.abort(),
    async close() {
      await Promise.all([inserts.close(), burials.close(), lookUps.close()]);
    },
  };
}

/** What the statement gives, unless the signal is aborted while it runs: a PostgreSQL that hangs would take what time is left. */
function unlessAborted<T>(statement: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(new LedgerUnavailableError('PostgreSQL had not answered yet'));
    signal.addEventListener('abort', onAbort, { once: true });
    statement.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
