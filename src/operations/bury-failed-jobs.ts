import { type DeadLetters, type EarlierDeadLetter, MAX_BURIED } from '../ledger/dead-letters.ts';
import { amountTextOf, correlationIdOf, parseCorrelationId } from '../payment.ts';
import type { Logger } from '../process/logger.ts';
import type { FailedJob } from '../queue/failed-jobs.ts';

/** How a worker before the dead letters' table began the reason of a payload that it could never send. */
const INVALID = /^invalid_payment:? */;

/**
 * Gives every failed job that has no row in the ledger, or one that believes it queued, its row. Harmless to repeat.
 * @throws LedgerUnavailableError after which some may have theirs.
 */
export async function buryFailedJobs(
  jobs: readonly FailedJob[],
  { deadLetters, logger }: { deadLetters: Pick<DeadLetters, 'bury' | 'areBuried'>; logger: Logger },
): Promise<void> {
  const letters = jobs.map(toDeadLetter);
  const areBuried = await deadLetters.areBuried(letters);
  const missing = letters.filter(
    // An invalid payment that was reported and has no row was counted instead.
    ({ code }, index) => !areBuried[index] && !(jobs[index]!.isBuried && code === 'invalid_payment'),
  );
  for (let start = 0; start < missing.length; start += MAX_BURIED) {
    const results = await deadLetters.bury(missing.slice(start, start + MAX_BURIED));
    const kept = results.filter((result) => result === 'kept').length;
    logger.info('kept dead letters that were only in redis', { kept, beyondBound: results.length - kept });
  }
}

function toDeadLetter(job: FailedJob): EarlierDeadLetter {
  const payload = parse(job.data);
  const code = job.data === undefined ? 'payload_missing' : INVALID.test(job.reason) ? 'invalid_payment' : 'rejected';
  // Only a payload that could never be sent, in runs that all ended, leaves no gateway where an attempt may be paid.
  const mayBePaid = code !== 'invalid_payment' || !job.isClean;
  return {
    jobId: job.id,
    correlationId: correlationIdOf(payload) ?? parseCorrelationId(job.id),
    amountText: amountTextOf(payload),
    payload: job.data,
    code,
    reason: job.reason.replace(INVALID, ''),
    gateway: job.isBoundToFallback ? 'fallback' : mayBePaid ? 'primary' : undefined,
    attempts: job.attempts,
    acceptedAt: job.acceptedAt,
    diedAt: job.diedAt,
  };
}

function parse(data: string | undefined): unknown {
  try {
    return data === undefined ? undefined : JSON.parse(data);
  } catch {
    // Kept as it is: it was no payload of ours.
    return undefined;
  }
}
