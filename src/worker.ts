import type { Config } from './config.ts';
import { createCircuit } from './gateways/circuit.ts';
import { HttpGateway } from './gateways/http-gateway.ts';
import type { TiedPlaces } from './gateways/waiting-room.ts';
import { createDb } from './ledger/db.ts';
import { createDeadLetters } from './ledger/dead-letters.ts';
import { createLedger } from './ledger/ledger.ts';
import { createOpenDeadLetters } from './ledger/open-dead-letters.ts';
import { createOperatorActions } from './ledger/operator-actions.ts';
import { createRecorder, type Recorder } from './ledger/recorder.ts';
import { warnWithoutStandby } from './ledger/warn-without-standby.ts';
import { type ActionRunner, startActionRunner } from './operations/action-runner.ts';
import { buryFailedJobs } from './operations/bury-failed-jobs.ts';
import { startReopening } from './operations/reopen-dead-letters.ts';
import { within } from './process/deadline.ts';
import type { Service } from './process/lifecycle.ts';
import type { Logger } from './process/logger.ts';
import { createOutageLog, type Failure } from './process/outage-log.ts';
import { processPayment } from './processing/process-payment.ts';
import type { GuardedGateway } from './processing/processing-deps.ts';
import { canLeaveSilence } from './processing/route.ts';
import { isPaused, queueKey } from './queue/bullmq-layout.ts';
import { type Epoch, epochFor } from './queue/epoch.ts';
import { createFailedJobs } from './queue/failed-jobs.ts';
import { startHeartbeat } from './queue/heartbeats.ts';
import { openOperatorQueue } from './queue/operator-queue.ts';
import { paymentQueue } from './queue/payment-queue.ts';
import { createPaymentWorker, type PaymentWorker } from './queue/payment-worker.ts';
import { createWorkerConnection, logConnection } from './queue/redis.ts';
import { createRedisClock } from './queue/redis-clock.ts';
import { writerFor } from './queue/replicated-writer.ts';
import { createServerCheck, lastingFault, type ServerCheck } from './queue/server-check.ts';
import { type SteeringWatch, watchSteering } from './queue/steering-watch.ts';
import { startWatchdog } from './queue/watchdog.ts';
import type { GatewayVitals, Since, WorkerVitals } from './telemetry/heartbeat.ts';
import type { Telemetry } from './telemetry/telemetry.ts';

/**
 * Failures in a row that open a gateway's circuit. One may be a stale connection. Three come at the same moment from a
 * gateway that is down, even with a concurrency of 4, the default on two cores.
 */
const FAILURE_THRESHOLD = 3;

/** Pause between probes. Work must resume within a second of a recovery; the other 800 ms are for the response. */
const PROBE_INTERVAL_MS = 200;

/** How long before the deadline of a shutdown the recorder aborts inserts that do not succeed. */
const RESERVE_MS = 2_000;

/**
 * Starts a worker. It takes payments once Redis, PostgreSQL and a gateway are up.
 * @param onStuck is called when the worker fetches nothing and cannot recover by itself
 */
export function startWorker(
  config: Config,
  logger: Logger,
  {
    telemetry,
    writesHeartbeat,
    onStuck,
  }: { telemetry: Telemetry; writesHeartbeat: boolean; onStuck: (reason: string) => void },
): Service {
  const queue = paymentQueue(config.queue);
  const { concurrency, turnMs } = config.worker;
  const redis = createWorkerConnection(config.redis);
  logConnection(redis, logger);
  const { durability } = config.queue;
  const serverCheck = createServerCheck({ redis, queues: [queue], durability, role: 'worker', logger });
  const clock = createRedisClock({ redis, key: queueKey(queue, 'meta') });
  const writer = writerFor(config, redis, queue);
  const epoch = epochFor(config, { redis, queue, writer, maxPending: concurrency, logger });
  const db = createDb(config.database);
  const deadLetters = createDeadLetters(db, config.deadLetters);
  const recorder = createRecorder({
    table: createLedger(db),
    deadLetters,
    logger,
    maxPending: concurrency,
    waitingElsewhere: () => primary.circuit.waiting + fallback.circuit.waiting,
  });
  const failedJobs = createFailedJobs({
    redis,
    queue,
    keep: (jobs) => buryFailedJobs(jobs, { deadLetters, logger }),
    logger,
  });

  const nowMs = () => clock.nowMs();

  // At most half of the places: payments that only one gateway may pay leave room for new ones.
  const tiedPlaces: TiedPlaces = { limit: Math.floor(concurrency / 2), taken: 0 };
  const policy = config.fallback;
  const guarded = (gateway: HttpGateway, sparesNew: boolean): GuardedGateway => {
    const log = createOutageLog(logger, { message: 'circuit open', endMessage: 'circuit closed' });
    const circuit = createCircuit({
      gateway: gateway.name,
      failureThreshold: FAILURE_THRESHOLD,
      probeIntervalMs: PROBE_INTERVAL_MS,
      // At most two probes at once: a payment sent to a silent gateway may be charged late, and the ledger lacks it until then.
      probeLimitMs: config.gateways.primary.receiveTimeoutMs / 2,
      tiedPlaces,
      sparesNew,
      unread: () => steering.unread(),
      onFailing: ({ code, detail }) =>
        log.failed(
          { code, detail },
          { gateway: gateway.name, state: 'open', url: gateway.url, waiting: circuit.waiting },
        ),
      onClosed: () => log.ended({ gateway: gateway.name, state: 'closed' }),
    });
    return { gateway, circuit, lastPaidAtMs: 0 };
  };
  const { primary: primaryConfig, fallback: fallbackConfig, rejectAfterMs } = config.gateways;
  const primary = guarded(new HttpGateway('primary', primaryConfig, logger), canLeaveSilence(policy));
  const fallback = guarded(new HttpGateway('fallback', fallbackConfig, logger), false);
  if (policy.on === 'pool_timeout' && primaryConfig.poolSize >= concurrency) {
    logger.info('pool_timeout cannot occur: GATEWAY_POOL_SIZE is not smaller than PAYMENT_QUEUE_MAX_CONCURRENCY', {
      poolSize: primaryConfig.poolSize,
      concurrency,
    });
  }

  const steering = watchSteering({
    redis,
    queue,
    onChange(gateway, { state, by }) {
      logger.info('gateway steered', { gateway, state, ...by });
      (gateway === 'primary' ? primary : fallback).circuit.steer(state, by);
    },
    logger,
  });

  const deps = { primary, fallback, recorder, policy, rejectAfterMs, nowMs, logger };
  const worker = createPaymentWorker({
    redis,
    queue,
    concurrency,
    turnMs,
    serverCheck,
    clock,
    steering,
    epoch,
    writer,
    process: (run) => processPayment(run, deps),
    onDeadLetter: () => failedJobs.tidySoon(),
    logger,
  });
  let isTaking = false;
  let isClosing = false;
  let reopening: { close(): void } | undefined;
  let actionRunner: ActionRunner | undefined;
  async function startTaking(): Promise<void> {
    await failedJobs.copyAll();
    if (isClosing) return;
    if (durability === 'replica') void warnWithoutStandby(db, logger);
    isTaking = true;
    worker.start();
    reopening = startReopening({ deadLetters, failedJobs, logger });
    actionRunner = startActionRunner({
      actions: createOperatorActions(db),
      openDeadLetters: createOpenDeadLetters(db),
      openQueue: () => openOperatorQueue(config, logger),
      workerId: worker.id,
      logger,
    });
  }
  // `copyAll` retries instead of rejecting. Any other error is a bug: as an unhandled rejection it shuts the process down.
  void startTaking();
  const watchdog = startWatchdog({
    worker,
    // The worker fetches nothing while an operator has paused the queue, or while PostgreSQL is down at the start.
    countWaiting: async () => ((await isPaused(redis, queue)) ? 0 : redis.llen(queueKey(queue, 'wait'))),
    isTaking: () => isTaking,
    // A worker that does not use an unsafe Redis, or does not know which gateway is stopped, or whose payments no replica
    // confirms, rightly fetches nothing. One whose
    // gateways are stopped is not idle: its places are taken by payments that wait.
    isConnected: () =>
      redis.status === 'ready' && serverCheck.fault === undefined && steering.isKnown && epoch?.fault === undefined,
    onStuck,
  });
  telemetry.describe({
    worker: () => vitalsOf({ worker, concurrency, primary, fallback, recorder, serverCheck, steering, epoch }),
  });
  const heartbeat = writesHeartbeat
    ? startHeartbeat({ redis, queue, heartbeat: () => telemetry.heartbeat(), logger })
    : undefined;
  logger.info('working', { concurrency });

  return {
    async close(deadline) {
      isClosing = true;
      // From now on this worker takes no payments, so the others need not wait until it has ended.
      const heartbeatRemoved = heartbeat?.close();
      watchdog.close();
      failedJobs.close();
      reopening?.close();
      const actionsEnded = actionRunner?.close();
      // Payments that wait for a gateway or the ledger return to the queue. Payments already made are still recorded.
      for (const { circuit } of [primary, fallback]) circuit.close();
      steering.close();
      recorder.abortLookUps();
      const abort = setTimeout(() => recorder.abort(), deadline - RESERVE_MS - performance.now());
      await worker.close(deadline - RESERVE_MS / 2);
      clearTimeout(abort);
      // A statement without a reply would block the rest. It ends with the process, and the next worker records what this
      // one did not.
      const latest = deadline - RESERVE_MS / 4;
      await within(latest, recorder.close());
      if (actionsEnded) await within(latest, actionsEnded);
      await heartbeatRemoved;
      for (const { gateway } of [primary, fallback]) gateway.close();
      clock.close();
      epoch?.close();
      writer?.close();
      serverCheck.close();
      redis.disconnect();
      await within(latest, db.destroy());
    },
  };
}

/** What a worker says about itself in the heartbeat of its process. */
function vitalsOf({
  worker,
  concurrency,
  primary,
  fallback,
  recorder,
  serverCheck,
  steering,
  epoch,
}: {
  worker: Pick<PaymentWorker, 'id' | 'inFlight'>;
  concurrency: number;
  primary: Pick<GuardedGateway, 'circuit'>;
  fallback: Pick<GuardedGateway, 'circuit'>;
  recorder: Pick<Recorder, 'outage'>;
  serverCheck: Pick<ServerCheck, 'fault'>;
  steering: Pick<SteeringWatch, 'isKnown' | 'fault'>;
  epoch: Pick<Epoch, 'fault'> | undefined;
}): WorkerVitals {
  const { outage } = recorder;
  // Once the steering was read, the worker goes on without.
  const fault = lastingFault(serverCheck) ?? (steering.isKnown ? undefined : steering.fault) ?? epoch?.fault;
  return {
    workerId: worker.id,
    concurrency,
    inFlight: worker.inFlight,
    gateways: { primary: gatewayVitals(primary), fallback: gatewayVitals(fallback) },
    ...(outage && { ledgerDown: sinceOf(outage) }),
    ...(fault && { fault: sinceOf(fault) }),
  };
}

function gatewayVitals({ circuit }: Pick<GuardedGateway, 'circuit'>): GatewayVitals {
  const { cause, waiting, steered, underWay } = circuit;
  return { ...(cause && { down: sinceOf(cause) }), waiting, steered, underWay };
}

/** In a heartbeat times are text. */
function sinceOf({ code, detail, since }: Failure & { readonly since: Date }): Since {
  return { code, detail, since: since.toISOString() };
}
