import type { Cluster, Redis } from 'ioredis';
import type { Config } from '../config.ts';
import type { Logger } from '../process/logger.ts';
import type { Failure } from '../process/outage-log.ts';
import type { PaymentRun } from '../processing/payment-run.ts';
import { isPaused, type PaymentQueueName, queueKey } from './bullmq-layout.ts';
import { epochFor } from './epoch.ts';
import { createFailedJobs, type FailedJob } from './failed-jobs.ts';
import type { Pacer } from './pacer.ts';
import { createPaymentWorker, type FleetUse, type PaymentWorker } from './payment-worker.ts';
import type { ShardPlaces } from './places.ts';
import { createQueuedCheck, type QueuedCheck } from './queued-check.ts';
import type { RedisCheck } from './redis-check.ts';
import { createRedisClock, type RedisClock } from './redis-clock.ts';
import { writerFor } from './replicated-writer.ts';
import { lastingFault } from './server-check.ts';
import type { SteeringWatch } from './steering-watch.ts';
import { startWatchdog } from './watchdog.ts';

/** All that a worker process has for one shard, so that a server that does not respond stops its own shards only. */
export interface ShardWorker extends Pick<PaymentWorker, 'inFlight'> {
  /** Why no payment of this shard is taken. */
  readonly fault: (Failure & { readonly since: Date }) | undefined;
  /** Of ids of this shard. */
  readonly areQueued: QueuedCheck;
  /** Resolves when the ledger has the dead letters of this shard and its payments are taken, or after `close()`. */
  start(): Promise<void>;
  /** As `PaymentWorker.close()`. */
  close(deadline: number): Promise<void>;
}

export function createShardWorker({
  config,
  redis,
  queue,
  serverCheck,
  process,
  keep,
  onStuck,
  logger,
  ...shared
}: {
  config: Pick<Config, 'redis' | 'queue' | 'worker'>;
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  /** The caller closes it. */
  serverCheck: Pick<RedisCheck, 'fault' | 'whenUsable'>;
  /** As createPaymentWorker has them. */
  id: string;
  places: ShardPlaces | undefined;
  pacer: Pick<Pacer, 'work'> | undefined;
  steering: Pick<SteeringWatch, 'isKnown' | 'known'>;
  fleet: FleetUse;
  /** Pays a payment. @param clock the one that stamped it */
  process: (run: PaymentRun, clock: Pick<RedisClock, 'nowMs'>) => Promise<void>;
  /** As createFailedJobs has it. */
  keep: (jobs: readonly FailedJob[]) => Promise<void>;
  onStuck: (reason: string) => void;
  logger: Logger;
}): ShardWorker {
  const { concurrency } = config.worker;
  const clock = createRedisClock({ redis, key: queueKey(queue, 'meta') });
  const writer = writerFor(config, redis, queue);
  const epoch = epochFor(config, { redis, queue, writer, maxPending: concurrency, logger });
  const failedJobs = createFailedJobs({ redis, queue, keep, logger });
  const worker = createPaymentWorker({
    ...shared,
    ...{ redis, queue, concurrency, serverCheck, clock, epoch, writer, logger },
    process: (run) => process(run, clock),
    onDeadLetter: () => failedJobs.tidySoon(),
  });
  let isTaking = false;
  let isClosing = false;
  const watchdog = startWatchdog({
    worker,
    // The worker fetches nothing while an operator has paused the queue, or while PostgreSQL is down at the start.
    countWaiting: async () => ((await isPaused(redis, queue)) ? 0 : redis.llen(queueKey(queue, 'wait'))),
    isTaking: () => isTaking,
    // A worker that does not use an unsafe Redis, or does not know which gateway is stopped, or whose payments no replica
    // confirms, or that fails alone, rightly fetches nothing. One whose gateways are stopped is not idle: its places are taken by payments that wait.
    isConnected: () =>
      redis.status === 'ready' &&
      serverCheck.fault === undefined &&
      shared.steering.isKnown &&
      epoch?.fault === undefined &&
      shared.fleet.isUsable,
    onStuck,
  });

  return {
    get inFlight() {
      return worker.inFlight;
    },
    get fault() {
      return lastingFault(serverCheck) ?? epoch?.fault;
    },
    areQueued: createQueuedCheck({ redis, queue, serverCheck }),
    async start() {
      await failedJobs.copyAll();
      if (isClosing) return;
      isTaking = true;
      worker.start();
    },
    async close(deadline) {
      isClosing = true;
      watchdog.close();
      failedJobs.close();
      await worker.close(deadline);
      clock.close();
      epoch?.close();
      writer?.close();
    },
  };
}
