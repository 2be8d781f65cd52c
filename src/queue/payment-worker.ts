import { DelayedError, type Job, UnrecoverableError } from 'bullmq';
import type { ClientContext, Cluster, Redis, Result } from 'ioredis';
import { within } from '../process/deadline.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';
import {
  DeadLetterError,
  type Pause,
  type PaymentRun,
  RequeueError,
  type RunHistory,
} from '../processing/payment-run.ts';
import {
  bindingText,
  boundGateway,
  jobKey,
  lockKey,
  type PaymentQueueName,
  queueKey,
  runsOf,
} from './bullmq-layout.ts';
import { markBuried } from './failed-jobs.ts';
import { PacedWorker } from './paced-worker.ts';
import { createPacer } from './pacer.ts';
import type { RedisClock } from './redis-clock.ts';
import { explainRedisError, isErrorReply } from './redis-errors.ts';
import { readScript } from './scripts.ts';
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

/** Pauses of payments that only one gateway may get, in s, by how often they had one; the last one repeats. */
const PAUSES_S: Readonly<Record<'tied' | 'doubted', readonly number[]>> = {
  tied: [1, 2, 4, 8, 16, 30],
  doubted: [1, 2, 4, 8, 15],
};

/** How long Redis may take, at a shutdown, to be told how the last jobs ended. */
const FAREWELL_MS = 1_000;

const BIND_SCRIPT = readScript('bind-payment');
const NOTE_SCRIPT = readScript('note-payment');
const RECALL_SCRIPT = readScript('recall-payments');

/** Twice the longest pause: then nothing comes back for this cause. */
const CAUSE_ENDS_AFTER_MS = 60_000;

/** How far the clock of another worker may be ahead before its pauses are shortened. */
const CLOCK_SLACK_MS = 1_000;

declare module 'ioredis' {
  interface RedisCommander<Context extends ClientContext = { type: 'default' }> {
    bindPayment(jobKey: string, lockKey: string, token: string, binding: string): Result<number, Context>;
    notePayment(jobKey: string, lockKey: string, unresolvedKey: string, ...args: string[]): Result<number, Context>;
    recallPayments(
      delayedKey: string,
      markerKey: string,
      unresolvedKey: string,
      ...args: (number | string)[]
    ): Result<number, Context>;
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
  redis.defineCommand('bindPayment', { numberOfKeys: 2, lua: BIND_SCRIPT });
  redis.defineCommand('notePayment', { numberOfKeys: 3, lua: NOTE_SCRIPT });
  redis.defineCommand('recallPayments', { numberOfKeys: 3, lua: RECALL_SCRIPT });
  const nowMs = () => clock.nowMs();
  let held = 0;
  // A full worker must not lose time: what it holds could be finished, and others taken.
  const pacer = turnMs > 0 ? createPacer({ turnMs: () => turnMs * (1 - held / concurrency) }) : undefined;
  let finished = 0;
  let onNoneHeld: (() => void) | undefined;

  const unresolvedKey = queueKey(queue, 'unresolved');

  async function paymentRun(job: Job, token: string): Promise<PaymentRun> {
    const key = jobKey(queue, job.id!);
    const bind = async (binding: string) => (await redis.bindPayment(key, lockKey(key), token, binding)) === 1;
    return {
      jobId: job.id!,
      payload: job.data,
      readPayloadText: () => payloadText(job),
      // A job that was evicted has lost its time, too.
      acceptedAt: new Date(job.timestamp || 0),
      get ageMs() {
        return Math.max(0, nowMs() - (job.timestamp || nowMs()));
      },
      history: await historyOf(job, key),
      boundTo: boundGateway(job),
      bindTo: (gateway) => bind(bindingText(gateway)),
      release: () => bind(''),
    };
  }

  /** BullMQ hands on what it has parsed. The text is as it was posted. */
  async function payloadText(job: Job): Promise<string | undefined> {
    return (await redis.hget(jobKey(queue, job.id!), 'data')) ?? undefined;
  }

  /** Runs that did not end clean, beyond those that ended doubtful, are unresolved. */
  async function historyOf(job: Job, key: string): Promise<RunHistory> {
    const { runs, notClean } = runsOf(job);
    if (notClean === 0) return { runs, isUnresolved: false, doubts: 0, doubtedSinceMs: undefined };
    const [doubtsText, since] = await redis.hmget(key, 'doubts', 'doubtedSince');
    const doubts = Number(doubtsText ?? 0);
    return { runs, isUnresolved: notClean > doubts, doubts, doubtedSinceMs: since ? Number(since) : undefined };
  }

  async function processJob(job: Job, token: string | undefined): Promise<void> {
    held += 1;
    pacer?.work();
    try {
      await process(await paymentRun(job, token!));
      await unlist(job);
    } catch (error) {
      await end(job, token!, error);
    } finally {
      held -= 1;
      finished += 1;
      pacer?.work();
      if (held === 0) onNoneHeld?.();
    }
  }

  /** The payment waits for nothing any more. An entry that stays is swept away by the recall of wrong clocks. */
  async function unlist(job: Job): Promise<void> {
    // A first run was never listed.
    if (job.attemptsStarted === 1) return;
    await redis.zrem(unresolvedKey, job.id!).catch((error: unknown) => {
      logger.debug('could not take a payment from the unresolved ones', { jobId: job.id, cause: describeError(error) });
    });
  }

  /** Whatever waits says why, also a payment that is alone and opens no circuit. */
  const notPaid = createOutageLog(logger, {
    message: 'payments were not paid and go back to the queue',
    endMessage: 'no payment went back to the queue for this cause any more',
    endsAfterMs: CAUSE_ENDS_AFTER_MS,
  });

  /** Turns the end of an unpaid run into what BullMQ does with the job. Always throws. */
  async function end(job: Job, token: string, error: unknown): Promise<never> {
    if (error instanceof DeadLetterError) {
      logger.warn('payment became a dead letter', { jobId: job.id, reason: error.message });
      try {
        await markBuried(redis, jobKey(queue, job.id!), token, await payloadText(job));
      } catch (cause) {
        // Its row is committed; failed-jobs.ts does this for every failed job that lacks it.
        outage.failed(explainRedisError(cause), { jobId: job.id });
      }
      await unlist(job);
      throw withoutStack(new UnrecoverableError(error.message));
    }
    if (isErrorReply(error)) outage.failed(explainRedisError(error), { jobId: job.id });
    else if (!(error instanceof RequeueError)) {
      logger.error('processing failed unexpectedly', { jobId: job.id, cause: describeError(error) });
    }
    if (error instanceof RequeueError) {
      logger.debug('payment goes back to the queue', { jobId: job.id, code: error.code, reason: error.message });
      if (error.pause !== 'none') notPaid.failed({ code: error.code, detail: error.message }, { jobId: job.id });
    }
    try {
      let pauseMs: number;
      if (error instanceof RequeueError && (error.end === 'doubtful' || isTied(error.pause))) {
        pauseMs = await note(job, token, error);
      } else {
        pauseMs = backoffMs(job.attemptsStarted, error);
        // What the gateway asked for is longer than our own: the recall of wrong clocks must know.
        if (pauseMs > BACKOFF_MS.max) await redis.hset(jobKey(queue, job.id!), 'pause', pauseMs);
      }
      // An ordinary error: the backoff strategy below reads its pause.
      if (error instanceof RequeueError && error.end === 'clean') throw new CleanEnd(error.message, pauseMs);
      await job.moveToDelayed(Date.now() + pauseMs, token);
    } catch (cause) {
      if (cause instanceof CleanEnd) throw withoutStack(cause);
      // Redis refused, or the lock is lost. The job comes back when its lock has expired. The cause itself must not reach
      // BullMQ: it would count the run among those that ended clean.
      outage.failed(explainRedisError(cause), { jobId: job.id });
    }
    // Tells BullMQ to leave the job as it is.
    throw new DelayedError(error instanceof Error ? error.message : String(error));
  }

  /** Writes down why the payment waits. @returns its pause in ms */
  async function note(job: Job, token: string, { code, message, end: runEnd, pause, atLeastMs }: RequeueError) {
    const key = jobKey(queue, job.id!);
    const pauses = isTied(pause) ? PAUSES_S[pause].map((s) => s * 1_000) : [0];
    const pauseMs = await redis.notePayment(
      key,
      lockKey(key),
      unresolvedKey,
      token,
      job.id!,
      code,
      message,
      String(Math.round(nowMs())),
      JSON.stringify(pauses),
      String(Math.round(atLeastMs)),
      runEnd === 'doubtful' ? '1' : '0',
    );
    if (pauseMs < 0) throw new Error('job lock lost to another worker');
    return pauseMs;
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
      backoffStrategy: (_attemptsMade: number, _type?: string, error?: Error) =>
        error instanceof CleanEnd ? error.pauseMs : 0,
    },
  };
  const worker = new PacedWorker(queue.name, processJob, options, pacing);
  const recall = setInterval(async () => {
    // While Redis is away the command would only wait for it, and one more every time.
    if (redis.status !== 'ready') return;
    try {
      const keys = [queueKey(queue, 'delayed'), queueKey(queue, 'marker'), unresolvedKey] as const;
      const count = await redis.recallPayments(
        ...keys,
        Date.now(),
        BACKOFF_MS.max,
        CLOCK_SLACK_MS,
        queueKey(queue, ''),
      );
      if (count > 0) logger.warn('shortened pauses that came from a wrong clock', { count });
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

/** A run that ended clean. BullMQ counts it, and asks the backoff strategy when the job is next. */
class CleanEnd extends Error {
  override readonly name = 'RequeueError';
  readonly pauseMs: number;
  constructor(message: string, pauseMs: number) {
    super(message);
    this.pauseMs = pauseMs;
  }
}

function isTied(pause: Pause): pause is 'tied' | 'doubted' {
  return pause === 'tied' || pause === 'doubted';
}

/** Full jitter on the upper half, so that payments which failed together do not come back together. */
function backoffMs(tries: number, error: unknown): number {
  if (!(error instanceof RequeueError)) return BACKOFF_MS.max;
  if (error.pause === 'none') return 0;
  const ceiling = Math.min(BACKOFF_MS.max, BACKOFF_MS.first * 2 ** Math.max(0, tries - 1));
  return Math.round(Math.max(error.atLeastMs, ceiling * (0.5 + Math.random() / 2)));
}
