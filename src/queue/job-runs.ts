import type { Job } from 'bullmq';
import type { Cluster, Redis } from 'ioredis';
import type { Failure } from '../process/outage-log.ts';
import { jobLockLost, type PaymentRun, type RunHistory } from '../processing/payment-run.ts';
import { events } from '../telemetry/events.ts';
import { bindingText, boundGateway, jobKey, lockKey, type PaymentQueueName, runsOf } from './bullmq-layout.ts';
import { defineScript } from './scripts.ts';

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
  noteUnresolved,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  nowMs: () => number;
  isOwned: (job: Job, token: string) => boolean;
  noteUnresolved: (job: Job, token: string, reason: Failure) => Promise<void>;
}): JobRuns {
  const bindPayment = defineScript<number>(redis, 'bind-payment', 2);

  /** Runs that did not end clean, beyond those that ended doubtful, are unresolved. */
  async function historyOf(job: Job, key: string): Promise<RunHistory> {
    const { runs, notClean } = runsOf(job);
    if (notClean === 0) return { runs, isUnresolved: false, doubts: 0, doubtedSinceMs: undefined };
    const [doubtsText, since] = await redis.hmget(key, 'doubts', 'doubtedSince');
    const doubts = Number(doubtsText ?? 0);
    return { runs, isUnresolved: notClean > doubts, doubts, doubtedSinceMs: since ? Number(since) : undefined };
  }

  return {
    async start(job, token) {
      const key = jobKey(queue, job.id!);
      const bind = async (binding: string) => {
        if ((await bindPayment(key, lockKey(key), token, binding)) !== 1) throw jobLockLost();
      };
      const history = await historyOf(job, key);
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

/** The payload as it was posted, where BullMQ hands on what it has parsed. Undefined when the job has lost it. */
export async function readPayloadText(redis: Redis | Cluster, key: string): Promise<string | undefined> {
  return (await redis.hget(key, 'data')) ?? undefined;
}
