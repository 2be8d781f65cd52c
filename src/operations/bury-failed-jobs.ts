import { type DeadLetters, type EarlierDeadLetter, MAX_BURIED } from '../ledger/dead-letters.ts';
import { amountTextOf, correlationIdOf, parseCorrelationId } from '../payment.ts';
import type { Logger } from '../process/logger.ts';
import type { FailedJob } from '../queue/failed-jobs.ts';

/** Workers older than the dead letters' table began the reason of an invalid payload in this way. */
const INVALID = /^invalid_payment:? */;

/**
 * Gives each failed job its row in the ledger when it has none, or when its row still says `queued_again`. Safe to repeat.
 * @throws LedgerUnavailableError after which some of the rows may be committed.
 */
export async function buryFailedJobs(
  jobs: readonly FailedJob[],
  { deadLetters, logger }: { deadLetters: Pick<DeadLetters, 'bury' | 'areBuried'>; logger: Logger },
): Promise<void> {
  const letters = jobs.map(toDeadLetter);
  const areBuried = await deadLetters.areBuried(letters);
  const missing = letters.filter(
    // A buried invalid payment without a row was beyond the bound: the worker only counted it.
    ({ code }, index) => !areBuried[index] && !(jobs[index]!.isBuried && code === 'invalid_payment'),
  );
  for (let start = 0; start < missing.length; start += MAX_BURIED) {
    const results = await deadLetters.bury(missing.slice(start, start + MAX_BURIED));
    const kept = results.filter((result) => result === 'kept').length;
    logger.info('kept dead letters that were only in redis', { kept, beyondBound: results.length - kept });
  }
}

/** The dead letter of a failed job, as far as the job still tells it. */
export function toDeadLetter(job: FailedJob): EarlierDeadLetter {
  const payload = parse(job.data);
  const code = job.data === undefined ? 'payload_missing' : INVALID.test(job.reason) ? 'invalid_payment' : 'rejected';
  // Only an invalid payload whose runs all ended was certainly never sent. Any other may be paid at a gateway.
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
    // The row keeps such a text as it is. Our API never stored it.
    return undefined;
  }
}
