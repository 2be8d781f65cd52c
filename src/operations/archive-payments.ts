import { setTimeout as sleep } from 'node:timers/promises';
import { InvalidRequestError } from '../errors.ts';
import { type Archive, type ArchiveSize, MIN_AGE_HOURS } from '../ledger/archive.ts';
import { isLockConflict } from '../ledger/db.ts';
import { faultOf, type Trail } from './trail.ts';

export interface ArchiveDeps {
  readonly archive: Archive;
  readonly trail: Trail;
}

/** How long a batch is repeated while others hold what it needs, and the pause between two tries. */
const PATIENCE_MS = 30_000;
const PAUSE_MS = 300;

/**
 * What `archivePayments` would move.
 * @throws InvalidRequestError when the bound is younger than {@link MIN_AGE_HOURS}; LedgerUnavailableError
 */
export async function measureArchive(before: Date, { archive }: Pick<ArchiveDeps, 'archive'>): Promise<ArchiveSize> {
  const latest = await archive.latestBound();
  if (before > latest) {
    const message = `must be at least ${MIN_AGE_HOURS} hours ago, so ${latest.toISOString()} at the latest`;
    throw new InvalidRequestError([{ param: '--before', message }]);
  }
  return archive.measure(before);
}

/**
 * Moves the payments before a bound to the archive, batch by batch, with one row in the trail.
 *
 * It may end anywhere and run again: each batch moves whole or not at all, and what is moved is not old any more. After each batch
 * it pauses as long as the batch took, so PostgreSQL works for it half of the time at most.
 * @param signal ends it after the batch under way
 * @param onBatch gets the number of payments moved so far
 * @returns the number of payments moved, and whether all of them are
 * @throws LedgerUnavailableError after which a part has moved
 */
export async function archivePayments(
  { before, who, reason, signal }: { before: Date; who: string; reason: string; signal: AbortSignal },
  { archive, trail }: ArchiveDeps,
  onBatch: (moved: number) => void = () => {},
): Promise<{ moved: number; isComplete: boolean }> {
  let moved = 0;

  /** @returns whether no old payment is left */
  async function moveAll(): Promise<boolean> {
    let from: Date | undefined;
    while (!signal.aborted) {
      const startedAtMs = performance.now();
      const batch = await unlessBlocked(() => archive.moveBatch({ from, before }));
      if (batch === undefined) return true;
      moved += batch.payments;
      from = batch.until;
      onBatch(moved);
      await sleep(performance.now() - startedAtMs, undefined, { signal }).catch(() => undefined);
    }
    return false;
  }

  const target = { before: before.toISOString() };
  const { isComplete, error } = await trail.run<{ isComplete: boolean; error?: unknown }>(
    { who, action: 'payments.archive', target, reason },
    async () => {
      try {
        const isComplete = await moveAll();
        return { result: { isComplete }, state: isComplete ? 'done' : 'stopped', outcome: { moved } };
      } catch (error) {
        return { result: { isComplete: false, error }, state: 'failed', outcome: { moved, ...faultOf(error) } };
      }
    },
  );
  if (error !== undefined) throw error;
  return { moved, isComplete };
}

/** Repeats a transaction that others have blocked. It has changed nothing then. */
async function unlessBlocked<T>(transaction: () => Promise<T>): Promise<T> {
  const startedAtMs = performance.now();
  for (;;) {
    try {
      return await transaction();
    } catch (error) {
      if (!isLockConflict(error) || performance.now() - startedAtMs > PATIENCE_MS) throw error;
    }
    await sleep(PAUSE_MS);
  }
}
