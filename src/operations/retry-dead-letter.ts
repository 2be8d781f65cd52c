import type { DeadLetters } from '../ledger/dead-letters.ts';
import type { Enqueuer } from '../queue/enqueuer.ts';
import type { QueueAdmin } from '../queue/queue-admin.ts';

/**
 * - `queued`: it is in the queue again, with the payload as it was posted.
 * - `in_queue`: its id was in the queue already; nothing was changed.
 * - `cut`: its payload was not kept whole, so there is nothing to retry.
 * - `not_dead`: Redis has no failed job of this id.
 */
export type RetryResult = 'queued' | 'in_queue' | 'cut' | 'not_dead';

export interface RetryDeps {
  readonly queueAdmin: Pick<QueueAdmin, 'failedJob'>;
  readonly deadLetters: Pick<DeadLetters, 'find'>;
  readonly enqueuer: Pick<Enqueuer, 'enqueueAgain'>;
}

/**
 * Retries the dead letter of a failed job. The row stays as it is until a worker looks the id up.
 * @throws QueueFullError, QueueUnavailableError, LedgerUnavailableError
 */
export async function retryFailedJob(
  id: string,
  { queueAdmin, deadLetters, enqueuer }: RetryDeps,
): Promise<RetryResult> {
  const job = await queueAdmin.failedJob(id);
  if (job === undefined) return 'not_dead';
  const { acceptedAt } = job;
  // An older worker's, which no newer one has copied yet: its payload is still whole.
  const stored = (await deadLetters.find({ jobId: id, acceptedAt })) ?? { payload: job.data, isCut: false };
  if (stored.payload === undefined || stored.isCut) return 'cut';
  const result = await enqueuer.enqueueAgain({ id, data: stored.payload, acceptedAt });
  return result === 'queued' ? 'queued' : 'in_queue';
}
