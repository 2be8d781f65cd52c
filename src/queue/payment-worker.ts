import { DelayedError, type Job, UnrecoverableError } from 'bullmq';
import type { ClientContext, Cluster, Redis, Result } from 'ioredis';
import { within } from '../lifecycle.ts';
import { describeError, type Logger } from '../logger.ts';
import { createPacer } from '../pacer.ts';
import { createOutageLog } from '../process/outage-log.ts';
import { DeadLetterError, type PaymentRun, RequeueError } from '../processing/process-payment.ts';
import { markBuried } from './failed-jobs.ts';
import { PacedWorker } from './paced-worker.ts';
import { type PaymentQueueName, queueKey } from './payment-queue.ts';
import type { RedisClock } from './redis-clock.ts';
import { explainRedisError } from './redis-errors.ts';
import type { ServerCheck } from './server-check.ts';

/** Takes payments from the queue and sees to what becomes of their jobs. */
export interface PaymentWorker {
  /** Jobs this worker holds now. */
  readonly held: number;
  /** Jobs that have left this worker again since it started. */
  readonly finished: number;
  /** Takes jobs from now on. */
  start(): void;
  /** Takes no more jobs, and resolves when those held have ended and Redis knows it, or at the deadline. */
  close(deadline: number): Promise<void>;
}

/**
 * A lock that is not renewed for so long is lost, and another worker takes the job over. A killed worker's payments go on
 * within LOCK_DURATION_MS + STALLED_INTERVAL_MS. Shorter, and a pause of the garbage collector or a crowded CPU would
 * count as a death; that is harmless, but sends the payment twice to the same gateway.
 */
const LOCK_DURATION_MS = 5_000;
const STALLED_INTERVAL_MS = 2_000;

/**
 * Failed jobs that BullMQ keeps, newest first. Far more than failed-jobs.ts leaves: BullMQ would delete without asking, and
 * with a smaller number it would delete what an older worker has left.
 */
const DEAD_LETTERS_KEPT = 10_000;

/** The circuit, not the backoff, protects a gateway that is down; this is for single failures, and to be over soon. */
const BACKOFF_MS = { first: 100, max: 1_000 };

/** How long Redis may take, at a shutdown, to be told how the last jobs ended. */
const FAREWELL_MS = 1_000;

/**
 * Sets or removes the mark while the run's lock is still held: KEYS job, lock; ARGV token, mark ('' removes it).
 * BullMQ's own updates of a job do not compare the lock.
 */
const MARK_SCRIPT = `
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], 'progress') else redis.call('HSET', KEYS[1], 'progress', ARGV[2]) end
return 1
`;

/**
 * Makes payments due now whose backoff ends later than any backoff can: the worker that requeued them had its clock wrong
 * (BullMQ reckons delays by the clocks of its workers). KEYS delayed, marker; ARGV the latest sensible time in ms.
 * A score is the time in ms times 4096 (BullMQ's getDelayedScore). Returns how many there were.
 */
const RECALL_SCRIPT = `
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', tonumber(ARGV[1]) * 4096), '+inf', 'LIMIT', 0, 1000)
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], 0, id) end
if #ids > 0 then redis.call('ZADD', KEYS[2], 0, '0') end
return #ids
`;

/** The mark is the job's progress: the client cannot write it, the dashboard shows it, and it survives a retry. */
const FALLBACK_MARK = { gateway: 'fallback' } as const;

declare module 'ioredis' {
  interface RedisCommander<Context extends ClientContext = { type: 'default' }> {
    markPayment(jobKey: string, lockKey: string, token: string, mark: string): Result<number, Context>;
    recallPayments(delayedKey: string, markerKey: string, latestMs: number): Result<number, Context>;
  }
}

export function createPaymentWorker({
  redis,
  queue,
  concurrency,
  turnMs,
  serverCheck,
  clock,
  process,
  onDeadLetter,
  logger,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  concurrency: number;
  /** The shortest turn of the event loop while the worker holds no payments; the more it holds, the shorter. */
  turnMs: number;
  /** While it has a refusal no payment is taken. */
  serverCheck: Pick<ServerCheck, 'refusal' | 'whenUsable'>;
  /** The clock that stamped the payments. */
  clock: Pick<RedisClock, 'nowMs' | 'isKnown' | 'known'>;
  process: (run: PaymentRun) => Promise<void>;
  /** A payment's job has failed for good. */
  onDeadLetter: () => void;
  logger: Logger;
}): PaymentWorker {
  redis.defineCommand('markPayment', { numberOfKeys: 2, lua: MARK_SCRIPT });
  redis.defineCommand('recallPayments', { numberOfKeys: 2, lua: RECALL_SCRIPT });
  let held = 0;
  // A full worker must not lose time: what it holds could be finished, and others taken.
  const pacer = turnMs > 0 ? createPacer({ turnMs: () => turnMs * (1 - held / concurrency) }) : undefined;
  let finished = 0;
  let onNoneHeld: (() => void) | undefined;

  function paymentRun(job: Job, token: string): PaymentRun {
    const jobKey = queueKey(queue, job.id!);
    return {
      jobId: job.id!,
      payload: job.data,
      payloadText: () => payloadText(job),
      attempts: job.attemptsStarted,
      // A job that was evicted has lost its time, too.
      acceptedAt: new Date(job.timestamp || 0),
      ageMs: Math.max(0, clock.nowMs() - (job.timestamp || clock.nowMs())),
      // BullMQ counts every start of a job, and every end by an ordinary error. A run that ends with an unknown attempt is
      // requeued in the way that is not counted, and a run that died is not counted either. So the numbers match exactly
      // while every earlier run has ended, and ended clean.
      earlierRunsAreClean: job.attemptsStarted - 1 === job.attemptsMade,
      isMarkedForFallback: (job.progress as Partial<typeof FALLBACK_MARK> | undefined)?.gateway === 'fallback',
      async markForFallback(marked) {
        const mark = marked ? JSON.stringify(FALLBACK_MARK) : '';
        return (await redis.markPayment(jobKey, `${jobKey}:lock`, token, mark)) === 1;
      },
    };
  }

  /** BullMQ hands on what it has parsed. The text is as it was posted. */
  async function payloadText(job: Job): Promise<string | undefined> {
    return (await redis.hget(queueKey(queue, job.id!), 'data')) ?? undefined;
  }

  async function processJob(job: Job, token: string | undefined): Promise<void> {
    held += 1;
    pacer?.work();
    try {
      await process(paymentRun(job, token!));
    } catch (error) {
      await end(job, token!, error);
    } finally {
      held -= 1;
      finished += 1;
      pacer?.work();
      if (held === 0) onNoneHeld?.();
    }
  }

  /** Turns the end of an unpaid run into what BullMQ does with the job. Always throws. */
  async function end(job: Job, token: string, error: unknown): Promise<never> {
    if (error instanceof DeadLetterError) {
      logger.warn('payment became a dead letter', { jobId: job.id, reason: error.message });
      await markBuried(redis, queueKey(queue, job.id!), token, await payloadText(job));
      throw withoutStack(new UnrecoverableError(error.message));
    }
    if (error instanceof RequeueError && error.isClean) throw withoutStack(error);
    if (!(error instanceof RequeueError)) {
      logger.error('processing failed unexpectedly', { jobId: job.id, cause: describeError(error) });
    } else {
      logger.debug('payment requeued with an open attempt', { jobId: job.id, reason: error.message });
    }
    try {
      await job.moveToDelayed(Date.now() + backoffMs(job.attemptsStarted, error), token);
    } catch (cause) {
      // Redis refused, or the lock is lost. The job comes back when its lock has expired. The cause itself must not reach
      // BullMQ: it would count the run among those that ended clean.
      logger.warn('payment could not be requeued', { jobId: job.id, cause: describeError(cause) });
    }
    // Tells BullMQ to leave the job as it is.
    throw new DelayedError(error instanceof Error ? error.message : String(error));
  }

  const outage = createOutageLog(logger, {
    message: 'worker met an error',
    endMessage: 'worker goes on after an error',
  });
  const pacing = {
    isUsable: () => clock.isKnown && serverCheck.refusal === undefined,
    async whenUsable() {
      await clock.known();
      await serverCheck.whenUsable();
    },
    outage,
  };
  const options = {
    connection: redis,
    prefix: queue.prefix,
    concurrency,
    lockDuration: LOCK_DURATION_MS,
    stalledInterval: STALLED_INTERVAL_MS,
    // A job that stalls too often would fail without being asked; a fault must never end a payment.
    maxStalledCount: Number.MAX_SAFE_INTEGER,
    // By default a fetch or completion that met a lost connection is tried again 15 s later.
    runRetryDelay: 500,
    removeOnComplete: { count: 0 },
    removeOnFail: { count: DEAD_LETTERS_KEPT },
    settings: {
      backoffStrategy: (attemptsMade: number, _type?: string, error?: Error) => backoffMs(attemptsMade, error),
    },
  };
  const worker = new PacedWorker(queue.name, processJob, options, pacing);
  const recall = setInterval(async () => {
    // While Redis is away the command would only wait for it, and one more every time.
    if (redis.status !== 'ready') return;
    try {
      const keys = [queueKey(queue, 'delayed'), queueKey(queue, 'marker')] as const;
      const count = await redis.recallPayments(...keys, Date.now() + 2 * BACKOFF_MS.max);
      if (count > 0) logger.warn('recalled payments with a backoff from a wrong clock', { count });
    } catch (error) {
      outage.failed(explainRedisError(error));
    }
  }, STALLED_INTERVAL_MS);
  worker.on('failed', (_job, error) => {
    if (error instanceof UnrecoverableError) onDeadLetter();
  });

  return {
    get held() {
      return held;
    },
    get finished() {
      return finished;
    },
    start() {
      // Never rejects but for a fault in BullMQ itself.
      worker.start();
    },
    async close(deadline) {
      clearInterval(recall);
      pacer?.close();
      const closed = worker.close();
      await within(deadline, untilNoneHeld());
      // It never resolves while Redis is away (BullMQ issue 4656); the jobs come back by their expired locks then.
      await within(
        Math.min(deadline, performance.now() + FAREWELL_MS),
        closed.catch(() => undefined),
      );
    },
  };

  function untilNoneHeld(): Promise<void> {
    if (held === 0) return Promise.resolve();
    return new Promise((resolve) => {
      onNoneHeld = resolve;
    });
  }
}

/** BullMQ keeps the stack in the job. For an expected end it says nothing, takes room and shows our paths. */
function withoutStack(error: Error): Error {
  error.stack = `${error.name}: ${error.message}`;
  return error;
}

/** Full jitter on the upper half, so that payments which failed together do not come back together. */
function backoffMs(tries: number, error: unknown): number {
  if (error instanceof RequeueError && !error.backOff) return 0;
  const ceiling = Math.min(BACKOFF_MS.max, BACKOFF_MS.first * 2 ** Math.max(0, tries - 1));
  return Math.round(ceiling * (0.5 + Math.random() / 2));
}
