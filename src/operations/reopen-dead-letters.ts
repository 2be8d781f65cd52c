import type { DeadLetters } from '../ledger/dead-letters.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';

const INTERVAL_MS = 60_000;

/** Rows of one check. Its statement and its script take some milliseconds. */
const PAGE = 500;

/**
 * Reopens dead letters that are `queued_again` in the ledger while Redis has no such job: Redis lost it, an operator emptied
 * the queue, or a worker looked the id up long after it had lost its lock. Checks one page at once and one every minute.
 */
export function startReopening({
  deadLetters,
  areQueued,
  logger,
}: {
  deadLetters: Pick<DeadLetters, 'queuedAgain' | 'reopen'>;
  /** Of each id, whether it has a job that has not failed; undefined while nobody knows. Such a row waits for its next check. */
  areQueued: (ids: readonly string[]) => Promise<readonly (boolean | undefined)[]>;
  logger: Logger;
}): { close(): void } {
  let afterId = '0';

  async function check(): Promise<void> {
    const rows = await deadLetters.queuedAgain(afterId, PAGE);
    // After a full page the next check goes on with the next page.
    afterId = rows.length === PAGE ? rows.at(-1)!.id : '0';
    const queued = await areQueued(rows.map(({ jobId }) => jobId));
    const lost = rows.filter((_row, index) => queued[index] === false);
    if (lost.length === 0) return;
    await deadLetters.reopen(lost.map(({ id }) => id));
    logger.warn('dead letters that were queued again are not in the queue', { count: lost.length });
  }

  // This is a safety net. Other parts report that PostgreSQL or Redis is down.
  const checkSafely = () =>
    void check().catch((error) =>
      logger.debug('could not check for lost dead letters', { cause: describeError(error) }),
    );
  checkSafely();
  const timer = setInterval(checkSafely, INTERVAL_MS);
  timer.unref();
  return { close: () => clearInterval(timer) };
}
