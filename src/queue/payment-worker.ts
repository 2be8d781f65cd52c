import { type Job, UnrecoverableError } from 'bullmq';
import type { Cluster, Redis } from 'ioredis';
import { within } from '../process/deadline.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';
import type { PaymentRun } from '../processing/payment-run.ts';
import { type PaymentQueueName, wakeWorker } from './bullmq-layout.ts';
import { startClockRecall } from './clock-recall.ts';
import type { Epoch } from './epoch.ts';
import { BACKOFF_MS, backoffStrategy, createJobEnds } from './job-ends.ts';
import { createJobRuns } from './job-runs.ts';
import { createOwnedJobs } from './owned-jobs.ts';
import { PacedWorker } from './paced-worker.ts';
import type { Pacer } from './pacer.ts';
import type { ShardPlaces } from './places.ts';
import type { RedisClock } from './redis-clock.ts';
import { explainRedisError } from './redis-errors.ts';
import type { ReplicatedWriter } from './replicated-writer.ts';
import type { ServerCheck } from './server-check.ts';
import type { SteeringWatch } from './steering-watch.ts';

/** Takes payments from one queue, has them processed, and ends their jobs. */
export interface PaymentWorker {
  /** Payments that this worker has taken and whose runs have not ended. */
  readonly inFlight: number;
  /** Runs that have ended since the worker was created. */
  readonly finished: number;
  /**
   * How often it has begun to ask for a payment. While none is in flight it asks every 10 s at least, unless it waits for a place
   * that other shards have.
   */
  readonly fetches: number;
  readonly isWaitingForPlace: boolean;
  /** Takes jobs from now on. */
  start(): void;
  /**
   * Takes no more jobs. Resolves when the runs in flight have ended and Redis knows it, or at the deadline, in ms of
   * `performance.now()`.
   */
  close(deadline: number): Promise<void>;
}

/**
 * A lock that is not renewed for this time is lost, and another worker takes the job over. A killed worker's payments go on
 * within LOCK_DURATION_MS + STALLED_INTERVAL_MS. Shorter, and a pause of the garbage collector or a crowded CPU would
 * count as a death; that is harmless, but sends the payment twice to the same gateway.
 */
const LOCK_DURATION_MS = 5_000;
const STALLED_INTERVAL_MS = 2_000;

/**
 * Failed jobs that BullMQ keeps, newest first. Far more than failed-jobs.ts leaves: BullMQ deletes jobs without a row in the
 * ledger, too, and with a smaller number it would delete what an older worker has left.
 */
const DEAD_LETTERS_KEPT = 10_000;

/** At a shutdown, how long Redis may take to learn how the last jobs ended. */
const FAREWELL_MS = 1_000;

/** Whether this worker may take payments beside the others (gateways/fleet-member.ts). */
export interface FleetUse {
  readonly isUsable: boolean;
  /** While it is not usable: whether it may take one payment now. */
  readonly mayTakeOne: boolean;
  /** Resolves when it may take payments, or one. */
  whenUsable(): Promise<void>;
  /** It has taken a payment. */
  taken(): void;
}

export function createPaymentWorker({
  id,
  redis,
  queue,
  concurrency,
  places,
  pacer,
  serverCheck,
  clock,
  steering,
  epoch,
  fleet,
  writer,
  process,
  onDeadLetter,
  logger,
}: {
  /** The locks of its jobs begin with it. The same for the workers of all shards of a process. */
  id: string;
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  /** Of the whole process. */
  concurrency: number;
  /** Shared with the workers of the other shards. Undefined: there are none. */
  places: ShardPlaces | undefined;
  /** Undefined: no pacing. */
  pacer: Pick<Pacer, 'work'> | undefined;
  /** While it has a fault no payment is taken. */
  serverCheck: Pick<ServerCheck, 'fault' | 'whenUsable'>;
  /** The clock that stamped the payments. */
  clock: Pick<RedisClock, 'nowMs' | 'isKnown' | 'known'>;
  /** Until it is known no payment is taken: its gateway may be stopped. */
  steering: Pick<SteeringWatch, 'isKnown' | 'known'>;
  /** Undefined: no server forgets what workers did. */
  epoch: Epoch | undefined;
  /** While it is not usable the other workers take the payments. */
  fleet: FleetUse;
  /** With `DURABILITY=replica`. */
  writer: ReplicatedWriter | undefined;
  process: (run: PaymentRun) => Promise<void>;
  /** A payment's job has failed for good. */
  onDeadLetter: () => void;
  logger: Logger;
}): PaymentWorker {
  const nowMs = () => clock.nowMs();
  const outage = createOutageLog(logger, {
    message: 'worker met an error',
    endMessage: 'worker goes on after an error',
  });
  const ends = createJobEnds({ redis, queue, nowMs, outage, logger });
  const owned = createOwnedJobs();
  const { isOwned } = owned;
  const runs = createJobRuns({
    redis,
    queue,
    nowMs,
    isOwned,
    epoch,
    writer,
    places,
    noteUnresolved: ends.noteUnresolved,
  });
  let inFlight = 0;
  let finished = 0;
  let onNoneInFlight: (() => void) | undefined;

  async function processJob(job: Job, token: string | undefined): Promise<void> {
    inFlight += 1;
    fleet.taken();
    pacer?.work();
    owned.add(job, token!);
    try {
      const run = await runs.start(job, token!);
      await places?.use(token!);
      await process(run).finally(() => places?.rest(token!));
      await ends.paid(job);
    } catch (error) {
      await ends.notPaid(job, token!, error);
    } finally {
      owned.remove(job, token!);
      inFlight -= 1;
      finished += 1;
      pacer?.work();
      if (inFlight === 0) onNoneInFlight?.();
    }
  }

  /** This worker was woken for a payment that it does not take, and BullMQ wakes only one. */
  function passOn(): void {
    wakeWorker(redis, queue).catch((error: unknown) => outage.failed(explainRedisError(error)));
  }

  const pacing = {
    isUsable: () =>
      clock.isKnown &&
      steering.isKnown &&
      serverCheck.fault === undefined &&
      epoch?.fault === undefined &&
      fleet.isUsable,
    async whenUsable() {
      await clock.known();
      await steering.known();
      await serverCheck.whenUsable();
      await epoch?.whenUsable();
      if (fleet.isUsable || fleet.mayTakeOne) return;
      passOn();
      await fleet.whenUsable();
    },
    outage,
    places,
  };
  const options = {
    connection: redis,
    prefix: queue.prefix,
    concurrency,
    lockDuration: LOCK_DURATION_MS,
    stalledInterval: STALLED_INTERVAL_MS,
    // By default BullMQ fails a job that stalls too often. A fault must never end a payment.
    maxStalledCount: Number.MAX_SAFE_INTEGER,
    // By default a fetch or completion that met a lost connection is tried again 15 s later.
    runRetryDelay: 500,
    removeOnComplete: { count: 0 },
    removeOnFail: { count: DEAD_LETTERS_KEPT },
    settings: { backoffStrategy },
  };
  const worker = new PacedWorker(id, queue.name, processJob, options, pacing);
  const recall = startClockRecall({ redis, queue, usualPauseMs: BACKOFF_MS.max, outage, logger });
  worker.on('locksRenewed', ({ jobIds }) => owned.renewed(jobIds));
  worker.on('failed', (_job, error) => {
    if (error instanceof UnrecoverableError) onDeadLetter();
  });

  return {
    get inFlight() {
      return inFlight;
    },
    get finished() {
      return finished;
    },
    get fetches() {
      return worker.fetches;
    },
    get isWaitingForPlace() {
      return places?.isWaiting ?? false;
    },
    start() {
      worker.start();
    },
    async close(deadline) {
      recall.close();
      const closed = worker.close();
      await within(deadline, untilNoneInFlight());
      // While Redis is down it never resolves (BullMQ issue 4656). The jobs come back when their locks have expired.
      await within(
        Math.min(deadline, performance.now() + FAREWELL_MS),
        closed.catch(() => undefined),
      );
    },
  };

  function untilNoneInFlight(): Promise<void> {
    if (inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => {
      onNoneInFlight = resolve;
    });
  }
}
