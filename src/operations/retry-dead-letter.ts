import type { DeadLetters } from '../ledger/dead-letters.ts';
import type { Enqueuer } from '../queue/enqueuer.ts';
import type { QueueAdmin } from '../queue/queue-admin.ts';

/**
 * - `queued`: the payment is in the queue again, with the payload as it was posted.
 * - `in_queue`: the id was in the queue already; nothing has changed.
 * - `cut`: the whole payload was not kept, so there is nothing to retry.
 * - `not_dead`: Redis has no failed job with this id.
 */
export type RetryResult = 'queued' | 'in_queue' | 'cut' | 'not_dead';

export interface RetryDeps {
  readonly queueAdmin: Pick<QueueAdmin, 'failedJob'>;
  readonly deadLetters: Pick<DeadLetters, 'find'>;
  readonly enqueuer: Pick<Enqueuer, 'enqueueAgain'>;
}

/**
 * Enqueues the dead letter of a failed job again. Its row changes only when a worker looks the id up.
 * @throws QueueFullError, QueueUnavailableError, LedgerUnavailableError
 */
export async function retryFailedJob(
  id: string,
  { queueAdmin, deadLetters, enqueuer }: RetryDeps,
): Promise<RetryResult> {
  const job = await queueAdmin.failedJob(id);
  if (job === undefined) return 'not_dead';
  const { acceptedAt } = job;
  // Without a row, an older worker wrote the job and no newer one has copied it yet. Then Redis still has the whole payload.
  const stored = (await deadLetters.find({ jobId: id, acceptedAt })) ?? { payload: job.data, isCut: false };
  if (stored.payload === undefined || stored.isCut) return 'cut';
  const result = await enqueuer.enqueueAgain({ id, data: stored.payload, acceptedAt });
  return result === 'queued' ? 'queued' : 'in_queue';
}
