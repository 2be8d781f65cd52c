import type { Cluster, Redis } from 'ioredis';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';
import { lockKey, type PaymentQueueName, queueKey, readJobFields } from './bullmq-layout.ts';
import { defineScript } from './scripts.ts';
import { shortData } from './short-data.ts';

/**
 * The dead letters that Redis still has: BullMQ's failed jobs. The ledger keeps the dead letters; Redis shows the newest
 * in the dashboard, with short payloads, so that a flood of junk cannot fill it.
 *
 * The field `buried` of a job says that its row is committed in the ledger. It is the number of runs started by then. A job
 * without it, or with another number, was failed by an older worker, or by one that died. It gets its row before anything
 * of it is changed here.
 */
export interface FailedJobs {
  /**
   * Passes every failed job without a row to `keep`, and removes all but the newest jobs. Retries until that is done. From
   * then on it looks every few seconds for jobs that an older worker has failed.
   * Resolves early, with nothing lost, after `close()`.
   */
  copyAll(): Promise<void>;
  /** Looks once, within a second and at most once a second, for the jobs that have failed since. */
  tidySoon(): void;
  /** Ends every wait, and sends no further command. */
  close(): void;
}

/** A failed job as it is in Redis. */
export interface FailedJob {
  readonly id: string;
  /** The payload's JSON text; undefined when the job has lost it. */
  readonly data: string | undefined;
  readonly reason: string;
  /** The epoch when the job has lost it. */
  readonly acceptedAt: Date;
  readonly diedAt: Date | undefined;
  /** Runs started. */
  readonly attempts: number;
  /** Every run is known to have ended without an attempt that may be paid. */
  readonly isClean: boolean;
  readonly isBoundToFallback: boolean;
  /** The row of this death is committed. */
  readonly isBuried: boolean;
}

/** Failed jobs that stay in Redis, newest first. */
const KEPT = 100;

/** Jobs of one page: with payloads of 64 KiB, the largest accepted, 6.4 MB. */
const PAGE = 100;

const TIDY_EVERY_MS = 1_000;

/** An older worker reports no failed jobs. Often enough to copy them before BullMQ deletes those beyond 10,000. */
const LOOK_EVERY_MS = 5_000;

/** The pause of `copyAll` after a failure. It doubles up to the largest. */
const RETRY_MS = { first: 250, max: 5_000 };

type ListedJob = [id: string, isBeyond: 0 | 1, fields: (string | null)[]];

/**
 * Marks the job of a run as buried and shortens its payload. Call it after the row is committed and before the job fails.
 * @returns false when the run no longer owns the job; then nothing was written.
 */
export async function markBuried(
  redis: Redis | Cluster,
  key: string,
  token: string,
  payload: string | undefined,
): Promise<boolean> {
  const mark = defineScript<number>(redis, 'mark-buried', 2);
  return (await mark(key, lockKey(key), token, shortData(payload) ?? '')) === 1;
}

/** Removes failed jobs whose rows are committed, up to a page. @returns how many. @throws an Error when Redis does not reply */
export async function dropBuried(redis: Redis | Cluster, queue: PaymentQueueName): Promise<number> {
  const listFailedPayments = defineScript<ListedJob[]>(redis, 'list-failed-payments', 1);
  const tidyFailedPayments = defineScript<number>(redis, 'tidy-failed-payments', 1);
  const failedKey = queueKey(queue, 'failed');
  const prefix = queueKey(queue, '');
  const listed = await listFailedPayments(failedKey, prefix, 0, PAGE);
  const buried = listed.filter(([id, , fields]) => toFailedJob(id, fields).isBuried);
  const changes = buried.flatMap(([id, , fields]) => [id, readJobFields(fields).runs ?? '', 'remove']);
  if (changes.length > 0) await tidyFailedPayments(failedKey, prefix, ...changes);
  return buried.length;
}

/**
 * @param keep Commits a row for each of these jobs that has none. It is called again after a rejection.
 */
export function createFailedJobs({
  redis,
  queue,
  keep,
  logger,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  keep: (jobs: readonly FailedJob[]) => Promise<void>;
  logger: Logger;
}): FailedJobs {
  const listFailedPayments = defineScript<ListedJob[]>(redis, 'list-failed-payments', 1);
  const tidyFailedPayments = defineScript<number>(redis, 'tidy-failed-payments', 1);
  const failedKey = queueKey(queue, 'failed');
  const prefix = queueKey(queue, '');
  const closing = new AbortController();
  const outage = createOutageLog(logger, {
    message: 'failed jobs could not be copied to the ledger',
    endMessage: 'failed jobs are copied to the ledger again',
  });
  let isAsked = false;
  let isTidying = false;
  let looking: NodeJS.Timeout | undefined;

  /** Page by page, until nothing is left to do. */
  async function tidy(): Promise<void> {
    while (!closing.signal.aborted) {
      const listed = await listFailedPayments(failedKey, prefix, KEPT, PAGE);
      if (listed.length === 0) break;
      await keep(listed.map(([id, , fields]) => toFailedJob(id, fields)));
      const changes = listed.flatMap(([id, isBeyond, fields]) => [
        id,
        readJobFields(fields).runs ?? '',
        isBeyond === 1 ? 'remove' : (shortData(readJobFields(fields).data) ?? ''),
      ]);
      await tidyFailedPayments(failedKey, prefix, ...changes);
    }
  }

  function tidySoon(): void {
    isAsked = true;
    if (!isTidying) void tidyWhileAsked();
  }

  /** Never rejects. */
  async function tidyWhileAsked(): Promise<void> {
    isTidying = true;
    while (isAsked && !closing.signal.aborted) {
      await pause(TIDY_EVERY_MS);
      isAsked = false;
      try {
        await tidy();
        outage.ended();
      } catch (error) {
        if (closing.signal.aborted) break;
        failed(error);
        isAsked = true;
      }
    }
    isTidying = false;
  }

  function failed(error: unknown): void {
    const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'failed';
    outage.failed({ code, detail: describeError(error) });
  }

  const pause = (ms: number) =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(done, ms);
      function done() {
        clearTimeout(timer);
        closing.signal.removeEventListener('abort', done);
        resolve();
      }
      closing.signal.addEventListener('abort', done, { once: true });
    });

  return {
    async copyAll() {
      for (let waitMs = RETRY_MS.first; !closing.signal.aborted; waitMs = Math.min(2 * waitMs, RETRY_MS.max)) {
        try {
          await tidy();
          outage.ended();
          if (!closing.signal.aborted) looking = setInterval(tidySoon, LOOK_EVERY_MS).unref();
          return;
        } catch (error) {
          if (closing.signal.aborted) return;
          failed(error);
          await pause(waitMs);
        }
      }
    },
    tidySoon,
    close() {
      clearInterval(looking);
      closing.abort();
    },
  };
}

/** @param fields in the order of scripts/list-failed-payments.lua */
export function toFailedJob(id: string, fields: readonly (string | null)[]): FailedJob {
  const { data, failedReason, timestamp, finishedOn, runs, notClean, isBoundToFallback, buried } =
    readJobFields(fields);
  return {
    id,
    data,
    reason: failedReason ?? 'the job has lost its reason',
    acceptedAt: timestamp ?? new Date(0),
    diedAt: finishedOn,
    attempts: Number(runs ?? 0),
    isClean: notClean === 0,
    isBoundToFallback,
    isBuried: buried !== undefined && buried === runs,
  };
}
