import { DelayedError, type Job, UnrecoverableError } from 'bullmq';
import type { Cluster, Redis } from 'ioredis';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog, type Failure, type OutageLog } from '../process/outage-log.ts';
import { DeadLetterError, jobLockLost, type Pause, RequeueError } from '../processing/payment-run.ts';
import { jobKey, lockKey, type PaymentQueueName, unresolvedKey } from './bullmq-layout.ts';
import { markBuried } from './failed-jobs.ts';
import { readPayloadText } from './job-runs.ts';
import { explainRedisError, isErrorReply } from './redis-errors.ts';
import { defineScript } from './scripts.ts';

/** Turns the end of a run into what BullMQ does with the job. */
export interface JobEnds {
  /** The payment is in the ledger. BullMQ completes the job when the processor returns. Never rejects. */
  paid(job: Job): Promise<void>;
  /** The run ended with this error. Always throws what makes BullMQ requeue the job, fail it for good or leave it as it is. */
  notPaid(job: Job, token: string, error: unknown): Promise<never>;
  /** The payment stays in its worker although only one gateway may get it, and that does not accept it. Never rejects. */
  noteUnresolved(job: Job, token: string, reason: Failure): Promise<void>;
}

/** The circuit, not the backoff, protects a gateway that is down. The backoff is for single failures, and is over soon. */
export const BACKOFF_MS = { first: 100, max: 1_000 };

/** Pauses of payments that only one gateway may get, in s, by how often they had one. The last one repeats. */
const PAUSES_S: Readonly<Record<Tied, readonly number[]>> = {
  tied: [1, 2, 4, 8, 16, 30],
  crowded: [1],
  doubted: [1, 2, 4, 8, 15],
};

/** Twice the longest pause: if the cause lasted, some payment would have come back because of it. */
const CAUSE_ENDS_AFTER_MS = 60_000;

export function createJobEnds({
  redis,
  queue,
  nowMs,
  outage,
  logger,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  /** The time of the clock that stamped the payments. */
  nowMs: () => number;
  /** For what Redis did not accept of a job's end. */
  outage: OutageLog;
  logger: Logger;
}): JobEnds {
  const notePayment = defineScript<number>(redis, 'note-payment', 4);
  const unresolvedKeys = [unresolvedKey(queue, 'primary'), unresolvedKey(queue, 'fallback')];
  /** Jobs in flight that their present run has listed. */
  const listed = new Set<string>();
  const keyOf = (job: Job) => jobKey(queue, job.id!);

  /** Every payment that waits says why, also a single one, which opens no circuit. */
  const requeued = createOutageLog(logger, {
    message: 'payments were not paid and go back to the queue',
    endMessage: 'no payment went back to the queue for this cause any more',
    endsAfterMs: CAUSE_ENDS_AFTER_MS,
  });

  /** The payment is unresolved no longer. If this fails, the clock recall removes the entry. */
  async function removeFromUnresolved(job: Job): Promise<void> {
    // No earlier run has listed it, and this one has not.
    if (job.attemptsStarted === 1 && !listed.has(job.id!)) return;
    await Promise.all(unresolvedKeys.map((key) => redis.zrem(key, job.id!))).catch((error: unknown) => {
      logger.debug('could not remove a payment from the unresolved ones', {
        jobId: job.id,
        cause: describeError(error),
      });
    });
  }

  /** The dead letter's row is committed. */
  async function fail(job: Job, token: string, { message }: DeadLetterError): Promise<never> {
    logger.warn('payment became a dead letter', { jobId: job.id, reason: message });
    try {
      await markBuried(redis, keyOf(job), token, await readPayloadText(redis, keyOf(job)));
    } catch (cause) {
      // failed-jobs.ts marks every failed job that lacks the mark.
      outage.failed(explainRedisError(cause), { jobId: job.id });
    }
    await removeFromUnresolved(job);
    throw withoutStack(new UnrecoverableError(message));
  }

  function log(job: Job, error: unknown): void {
    const { id: jobId } = job;
    if (error instanceof RequeueError) {
      logger.debug('payment goes back to the queue', { jobId, code: error.code, reason: error.message });
      if (error.pause !== 'none') requeued.failed({ code: error.code, detail: error.message }, { jobId });
    } else if (isErrorReply(error)) {
      outage.failed(explainRedisError(error), { jobId });
    } else {
      logger.error('processing failed unexpectedly', { jobId, cause: describeError(error) });
    }
  }

  /** Writes what the next run and the clock recall must know. @returns the job's pause in ms */
  async function notePause(job: Job, token: string, error: unknown): Promise<number> {
    if (error instanceof RequeueError && (error.end !== 'clean' || isTied(error.pause))) {
      return noteReason(job, token, error);
    }
    const pauseMs = backoffMs(job.attemptsStarted, error);
    // The gateway asked for more than our own longest pause.
    if (pauseMs > BACKOFF_MS.max) await redis.hset(keyOf(job), 'pause', pauseMs);
    return pauseMs;
  }

  /** Writes why the payment waits, too. */
  async function noteReason(job: Job, token: string, error: RequeueError): Promise<number> {
    const { code, message, end, pause, atLeastMs } = error;
    const pauses = isTied(pause) ? PAUSES_S[pause].map((s) => s * 1_000) : [backoffMs(job.attemptsStarted, error)];
    const pauseMs = await notePayment(
      keyOf(job),
      lockKey(keyOf(job)),
      ...unresolvedKeys,
      token,
      job.id!,
      code,
      message,
      Math.round(nowMs()),
      JSON.stringify(pauses),
      Math.round(atLeastMs),
      end === 'doubtful' ? '1' : '0',
      end === 'clean' ? '0' : '1',
    );
    if (pauseMs < 0) throw jobLockLost();
    return pauseMs;
  }

  async function requeue(job: Job, token: string, error: unknown): Promise<never> {
    let cleanEnd: CleanEnd | undefined;
    try {
      const pauseMs = await notePause(job, token, error);
      if (error instanceof RequeueError && error.end === 'clean')
        cleanEnd = new CleanEnd(`${error.code}: ${error.message}`, pauseMs);
      else await job.moveToDelayed(Date.now() + pauseMs, token);
    } catch (cause) {
      // Redis replied an error, or the lock is lost. The job comes back when its lock has expired. BullMQ must not get the
      // cause itself: it would count the run among those that ended clean.
      outage.failed(explainRedisError(cause), { jobId: job.id });
    }
    // DelayedError makes BullMQ leave the job as it is.
    throw cleanEnd ? withoutStack(cleanEnd) : new DelayedError(error instanceof Error ? error.message : String(error));
  }

  return {
    async paid(job) {
      await removeFromUnresolved(job);
      listed.delete(job.id!);
    },
    async notPaid(job, token, error) {
      try {
        if (error instanceof DeadLetterError) return await fail(job, token, error);
        log(job, error);
        return await requeue(job, token, error);
      } finally {
        listed.delete(job.id!);
      }
    },
    async noteUnresolved(job, token, { code, detail }) {
      listed.add(job.id!);
      const [key, now] = [keyOf(job), Math.round(nowMs())];
      try {
        await notePayment(key, lockKey(key), ...unresolvedKeys, token, job.id!, code, detail, now, '', 0, '0');
      } catch (error) {
        outage.failed(explainRedisError(error), { jobId: job.id });
      }
    },
  };
}

/** BullMQ keeps the stack in the job. For an expected end it says nothing, takes room and shows our paths. */
function withoutStack(error: Error): Error {
  error.stack = `${error.name}: ${error.message}`;
  return error;
}

/** A run that ended clean. To BullMQ it is an ordinary error: BullMQ counts it and asks {@link backoffStrategy} for the pause. */
class CleanEnd extends Error {
  override readonly name = 'RequeueError';
  readonly pauseMs: number;
  constructor(message: string, pauseMs: number) {
    super(message);
    this.pauseMs = pauseMs;
  }
}

/** For BullMQ's settings. @returns the pause in ms before the job is due again */
export function backoffStrategy(_attemptsMade: number, _type?: string, error?: Error): number {
  return error instanceof CleanEnd ? error.pauseMs : 0;
}

/** Pauses of payments that only one gateway may get. */
type Tied = Exclude<Pause, 'none' | 'backoff'>;

function isTied(pause: Pause): pause is Tied {
  return pause !== 'none' && pause !== 'backoff';
}

/** Full jitter on the upper half, so that payments which failed together do not come back together. */
function backoffMs(tries: number, error: unknown): number {
  if (!(error instanceof RequeueError)) return BACKOFF_MS.max;
  if (error.pause === 'none') return 0;
  const ceiling = Math.min(BACKOFF_MS.max, BACKOFF_MS.first * 2 ** Math.max(0, tries - 1));
  return Math.round(Math.max(error.atLeastMs, ceiling * (0.5 + Math.random() / 2)));
}
