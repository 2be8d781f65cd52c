import type { DeadLetters } from '../ledger/dead-letters.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import type { FailedJobs } from '../queue/failed-jobs.ts';

const INTERVAL_MS = 60_000;

/** Rows of one look: a statement and a script of some milliseconds. */
const PAGE = 500;

/**
 * Opens dead letters again that the ledger believes queued while Redis has no such job: Redis lost it, an operator emptied
 * the queue, or a worker that had long lost its lock looked the id up. Looks at once and then every minute, a page each time.
 */
export function startReopening({
  deadLetters,
  failedJobs,
  logger,
}: {
  deadLetters: Pick<DeadLetters, 'queuedAgain' | 'reopen'>;
  failedJobs: Pick<FailedJobs, 'areQueued'>;
  logger: Logger;
}): { close(): void } {
  let afterId = '0';

  async function look(): Promise<void> {
    const rows = await deadLetters.queuedAgain(afterId, PAGE);
    // A full page: the next look goes on behind it.
    afterId = rows.length === PAGE ? rows.at(-1)!.id : '0';
    const areQueued = await failedJobs.areQueued(rows.map(({ jobId }) => jobId));
    const lost = rows.filter((_row, index) => !areQueued[index]);
    if (lost.length === 0) return;
    await deadLetters.reopen(lost.map(({ id }) => id));
    logger.warn('dead letters that were queued again are not in the queue', { count: lost.length });
  }

  // It is a safety net: while PostgreSQL or Redis is down, the others say so.
  const lookSafely = () =>
    look().catch((error) => logger.debug('could not look for lost dead letters', { cause: describeError(error) }));
  lookSafely();
  const timer = setInterval(lookSafely, INTERVAL_MS);
  timer.unref();
  return { close: () => clearInterval(timer) };
}
