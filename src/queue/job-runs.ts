import type { Job } from 'bullmq';
import type { Cluster, Redis } from 'ioredis';
import { QueueUnavailableError } from '../errors.ts';
import type { Failure } from '../process/outage-log.ts';
import { jobLockLost, type PaymentRun, RequeueError, type RunHistory } from '../processing/payment-run.ts';
import { events } from '../telemetry/events.ts';
import { bindingText, boundGateway, jobKey, lockKey, type PaymentQueueName, runsOf } from './bullmq-layout.ts';
import type { Epoch } from './epoch.ts';
import type { ShardPlaces } from './places.ts';
import { isErrorReply, NotReplicatedError } from './redis-errors.ts';
import { defineWrite, type ReplicatedWriter } from './replicated-writer.ts';

/** What a run may read and change of its job. */
export interface JobRuns {
  /**
   * @param token what the job's lock contains while this run owns it
   * @throws what Redis replies when it cannot tell what earlier runs left behind
   */
  start(job: Job, token: string): Promise<PaymentRun>;
}

/**
 * @param nowMs the time of the clock that stamped the payments
 * @param isOwned whether Redis has lately confirmed that the run of this token owns the job
 * @param noteUnresolved never rejects
 */
export function createJobRuns({
  redis,
  queue,
  nowMs,
  isOwned,
  epoch,
  writer,
  places,
  noteUnresolved,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  nowMs: () => number;
  isOwned: (job: Job, token: string) => boolean;
  epoch: Epoch | undefined;
  writer: ReplicatedWriter | undefined;
  places?: ShardPlaces | undefined;
  noteUnresolved: (job: Job, token: string, reason: Failure) => Promise<void>;
}): JobRuns {
  const bindPayment = defineWrite<number>({ redis, writer }, 'bind-payment', 2);

  /**
   * Runs that did not end clean, beyond those that ended doubtful, are unresolved. So is a payment whose runs this server may
   * have forgotten.
   */
  async function historyOf(job: Job, key: string, token: string): Promise<RunHistory> {
    const isForgotten = epoch !== undefined && (await mayBeForgotten(epoch, job, key, token));
    const { runs, notClean } = runsOf(job);
    if (notClean === 0) return { runs, isUnresolved: isForgotten, doubts: 0, doubtedSinceMs: undefined };
    const [doubtsText, since] = await redis.hmget(key, 'doubts', 'doubtedSince');
    const doubts = Number(doubtsText ?? 0);
    const isUnresolved = isForgotten || notClean > doubts;
    return { runs, isUnresolved, doubts, doubtedSinceMs: since ? Number(since) : undefined };
  }

  /** @throws RequeueError when the payment must not be sent in this run */
  async function mayBeForgotten(ofServer: Epoch, job: Job, key: string, token: string): Promise<boolean> {
    const since = await ofServer.confirm({ lockKey: lockKey(key), token }).catch(notConfirmed);
    if (since === undefined) throw jobLockLost();
    // A job that has lost its time was evicted.
    if ((job.timestamp || 0) > since) return false;
    const [enqueuedAt, released] = await redis.hmget(key, 'enqueuedAt', 'released');
    if (Number(enqueuedAt ?? 0) > since) return false;
    // An operator has freed it, and knew what had happened before.
    return !(released && (JSON.parse(released) as { at: number }).at > since);
  }

  return {
    async start(job, token) {
      const key = jobKey(queue, job.id!);
      const bind = async (binding: string) => {
        places?.rest(token);
        const bound = await bindPayment(key, lockKey(key), token, binding).catch(notConfirmed);
        await places?.use(token);
        if (bound !== 1) throw jobLockLost();
      };
      const history = await historyOf(job, key, token);
      // A job that was evicted has lost its time, too.
      if (history.runs === 0 && job.timestamp && events.paymentTaken.hasSubscribers) {
        events.paymentTaken.publish({ waitMs: Math.max(0, nowMs() - job.timestamp) });
      }
      return {
        jobId: job.id!,
        payload: job.data,
        readPayloadText: () => readPayloadText(redis, key),
        acceptedAt: new Date(job.timestamp || 0),
        get ageMs() {
          return Math.max(0, nowMs() - (job.timestamp || nowMs()));
        },
        history,
        get isOwned() {
          return isOwned(job, token);
        },
        boundTo: boundGateway(job),
        bindTo: (gateway) => bind(bindingText(gateway)),
        release: () => bind(''),
        noteUnresolved: (reason) => void noteUnresolved(job, token, reason),
      };
    },
  };
}

/**
 * Nothing may be sent now, and nothing was. What the command has written may be there.
 * @throws RequeueError, or the error itself when Redis has replied it
 */
function notConfirmed(error: unknown): never {
  const isOurs = error instanceof QueueUnavailableError || error instanceof NotReplicatedError;
  if (!isOurs && isErrorReply(error)) throw error;
  const message = `not confirmed by Redis: ${error instanceof Error ? error.message : String(error)}`;
  throw new RequeueError(message, { code: 'not_confirmed', end: 'clean', pause: 'backoff' });
}

/** The payload as it was posted, where BullMQ hands on what it has parsed. Undefined when the job has lost it. */
export async function readPayloadText(redis: Redis | Cluster, key: string): Promise<string | undefined> {
  return (await redis.hget(key, 'data')) ?? undefined;
}
