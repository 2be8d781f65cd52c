import type { DeadLetter } from '../ledger/dead-letters.ts';
import { amountTextOf, correlationIdOf, parseCorrelationId } from '../payment.ts';
import { DeadLetterError, type PaymentRun, RequeueError } from './payment-run.ts';
import type { ProcessingDeps } from './processing-deps.ts';

/**
 * Commits the dead letter's row, then ends the run.
 * @param why with the gateway at which the payment may have been paid; undefined: at none
 * @throws DeadLetterError, or RequeueError when the row could not be committed
 */
export async function bury(
  run: PaymentRun,
  { recorder }: Pick<ProcessingDeps, 'recorder'>,
  why: Pick<DeadLetter, 'code' | 'reason' | 'gateway'>,
): Promise<never> {
  const letter: DeadLetter = {
    jobId: run.jobId,
    correlationId: correlationIdOf(run.payload) ?? parseCorrelationId(run.jobId),
    amountText: amountTextOf(run.payload),
    payload: await payloadTextOf(run),
    ...why,
    attempts: run.history.runs + 1,
    acceptedAt: run.acceptedAt,
  };
  try {
    await recorder.bury(letter);
  } catch (error) {
    const message = `dead letter not recorded yet: ${(error as Error).message}`;
    throw new RequeueError(message, { code: 'ledger_unavailable', end: 'clean', pause: 'backoff' });
  }
  throw new DeadLetterError(`${why.code}: ${why.reason}`);
}

/** The payload as it was posted; undefined when the job has lost it. @throws RequeueError when Redis cannot be asked */
export async function payloadTextOf(run: PaymentRun): Promise<string | undefined> {
  try {
    return await run.readPayloadText();
  } catch (error) {
    const message = `the payload could not be read: ${(error as Error).message}`;
    throw new RequeueError(message, { code: 'queue_unavailable', end: 'clean', pause: 'backoff' });
  }
}
