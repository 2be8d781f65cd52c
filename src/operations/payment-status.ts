import type { PaymentInLedger } from '../ledger/find-payment.ts';
import type { Ledger } from '../ledger/ledger.ts';
import { parseCorrelationId } from '../payment.ts';
import { boundGateway } from '../queue/bullmq-layout.ts';
import type { QueueAdmin } from '../queue/queue-admin.ts';

export interface PaymentStatus extends PaymentInLedger {
  readonly correlationId: string;
  /** Undefined: not in the queue. */
  readonly job:
    | {
        /** BullMQ's: `waiting`, `active`, `delayed`, `failed` … */
        readonly state: string;
        readonly acceptedAt: Date;
        /** Number of started runs. */
        readonly runs: number;
        /** Why the last run did not pay. */
        readonly reason: string | undefined;
        /** The only gateway that may pay it. Undefined: either. */
        readonly boundTo: string | undefined;
      }
    | undefined;
}

/**
 * What queue and ledger have on one payment. Without job, row and dead letter nobody posted it, or it was purged.
 *
 * The queue comes first: a job ends after the commit of its row, so a payment that ends in between is still found.
 * @throws RangeError when the id is no UUID; QueueUnavailableError, LedgerUnavailableError
 */
export async function paymentStatus(
  id: string,
  { queueAdmin, ledger }: { queueAdmin: Pick<QueueAdmin, 'queue'>; ledger: Pick<Ledger, 'find'> },
): Promise<PaymentStatus> {
  const correlationId = parseCorrelationId(id);
  if (correlationId === undefined) throw new RangeError('a correlationId is a UUID');
  const job = await (await queueAdmin.queue()).getJob(correlationId);
  return {
    correlationId,
    job: job && {
      state: await job.getState(),
      acceptedAt: new Date(job.timestamp),
      runs: job.attemptsStarted,
      reason: job.failedReason,
      boundTo: boundGateway(job),
    },
    ...(await ledger.find(correlationId)),
  };
}
