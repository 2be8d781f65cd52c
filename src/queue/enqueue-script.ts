import { addStandardJob } from 'bullmq/dist/cjs/scripts/addStandardJob-9.js';
import { ADD_JOB_KEYS, epochKey, type PaymentQueueName, queueKey, shardsKey } from './bullmq-layout.ts';
import { JOB_NAME, JOB_OPTIONS } from './payment-queue.ts';
import { readScript } from './scripts.ts';

/** What became of one payment of a batch. */
export type EnqueueResult = 'queued' | 'duplicate' | 'full';

/** In the order of the script's codes 0, 1, 2. */
const RESULTS: readonly EnqueueResult[] = ['queued', 'duplicate', 'full'];

export function toEnqueueResult(code: unknown): EnqueueResult | undefined {
  return RESULTS[code as number];
}

/** The place of BullMQ's script in ours. */
const PLACE = "--[[ the text of BullMQ's addStandardJob ]]";

/** Adds a batch of payments in one atomic step: scripts/enqueue-payments.lua. */
export const ENQUEUE_SCRIPT = readScript('enqueue-payments').replace(PLACE, () => addStandardJob.content);

/**
 * The keys of {@link ENQUEUE_SCRIPT}.
 * @param notesTime whether it notes the time of acceptance for the next epoch (epoch.ts)
 */
export function enqueueKeys(queue: PaymentQueueName, { notesTime = false } = {}): string[] {
  const keys = [...ADD_JOB_KEYS, 'prioritized', 'failed'].map((type) => queueKey(queue, type));
  keys.push(shardsKey(queue));
  return notesTime ? [...keys, epochKey(queue)] : keys;
}

/**
 * The arguments before the payments of a batch.
 * @param maxSize of this queue
 * @param shards how many queues the relay has
 * @param acceptedAt for payments that were accepted before; otherwise Redis stamps them
 */
export function enqueueArguments(
  queue: PaymentQueueName,
  { maxSize, shards, acceptedAt }: { maxSize: number; shards: number; acceptedAt?: Date | undefined },
): string[] {
  return [
    Number.isFinite(maxSize) ? String(maxSize) : '-1',
    queueKey(queue, ''),
    JOB_NAME,
    JSON.stringify(JOB_OPTIONS),
    acceptedAt === undefined ? '' : String(acceptedAt.getTime()),
    String(shards),
  ];
}
