import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { Config } from './config.ts';
import { createCircuit } from './gateways/circuit.ts';
import { joinFleet } from './gateways/fleet-member.ts';
import { HttpGateway } from './gateways/http-gateway.ts';
import { createInFlightLimits } from './gateways/in-flight-limit.ts';
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
import { watchFleet } from './queue/fleet-watch.ts';
import { startHeartbeat } from './queue/heartbeats.ts';
import { openOperatorQueue } from './queue/operator-queue.ts';
import { createPacer } from './queue/pacer.ts';
import { createPlaces } from './queue/places.ts';
import { combineKnownChecks } from './queue/queued-check.ts';
import { createWorkerConnection, logConnection } from './queue/redis.ts';
import type { RedisCheck } from './queue/redis-check.ts';
import { lastingFault } from './queue/server-check.ts';
import { createShardChecks } from './queue/shard-checks.ts';
import { OTHER_SHARDS } from './queue/shard-count.ts';
import { createShardWorker, type ShardWorker } from './queue/shard-worker.ts';
import { paymentQueues } from './queue/shards.ts';
import { type SteeringWatch, watchSteering } from './queue/steering-watch.ts';
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
  const id = randomUUID();
  const queues = paymentQueues(config.queue);
  const { concurrency, turnMs } = config.worker;
  const redis = createWorkerConnection(config.redis);
  logConnection(redis, logger);
  const checks = createShardChecks({ redis, queues, durability: config.queue.durability, role: 'worker', logger });
  const db = createDb(config.database);
  const deadLetters = createDeadLetters(db, config.deadLetters);
  const recorder = createRecorder({
    table: createLedger(db),
    deadLetters,
    logger,
    maxPending: concurrency,
    waitingElsewhere: () => primary.circuit.waiting + fallback.circuit.waiting,
  });
  // At most half of the places: payments that only one gateway may pay leave room for new ones.
  const tiedPlaces: TiedPlaces = { limit: Math.floor(concurrency / 2), taken: 0 };
  const policy = config.fallback;
  const fleet = watchFleet({
    redis,
    queue: queues.home,
    workerId: id,
    report: () => member.report(),
    isDown: () => member.isDown,
    onHeard: (others, askedAtMs) => member.hear(others, askedAtMs),
    logger,
  });
  const inFlightLimits = createInFlightLimits(config.gateways.maxInFlight);
  const guarded = (gateway: HttpGateway, sparesNew: boolean): GuardedGateway => {
    const log = createOutageLog(logger, { message: 'circuit open', endMessage: 'circuit closed' });
    const aloneLog = createOutageLog(logger, {
      message: 'this worker fails at a gateway where other workers pay',
      endMessage: 'this worker can use the gateway again',
      level: 'error',
    });
    const { name } = gateway;
    const circuit = createCircuit({
      gateway: name,
      failureThreshold: FAILURE_THRESHOLD,
      probeIntervalMs: PROBE_INTERVAL_MS,
      // At most two probes at once: a payment sent to a silent gateway may be charged late, and the ledger lacks it until then.
      probeLimitMs: config.gateways.primary.receiveTimeoutMs / 2,
      tiedPlaces,
      sparesNew,
      unread: () => steering.unread(),
      inFlightLimit: inFlightLimits[name],
      right: fleet.probeRight(name),
      onOpened: () => fleet.speak(),
      onFailing: ({ code, detail }) =>
        log.failed({ code, detail }, { gateway: name, state: 'open', url: gateway.url, waiting: circuit.waiting }),
      onClosed: () => {
        fleet.speak();
        log.ended({ gateway: name, state: 'closed' });
      },
      onAlone: (alone) => (alone ? aloneLog.failed(alone, { gateway: name }) : aloneLog.ended({ gateway: name })),
    });
    return { gateway, circuit, lastPaidAtMs: Number.NEGATIVE_INFINITY };
  };
  const { primary: primaryConfig, fallback: fallbackConfig, rejectAfterMs } = config.gateways;
  const primary = guarded(new HttpGateway('primary', primaryConfig, logger), canLeaveSilence(policy));
  const fallback = guarded(new HttpGateway('fallback', fallbackConfig, logger), false);
  const member = joinFleet({
    circuits: { primary: primary.circuit, fallback: fallback.circuit },
    divide: inFlightLimits.divide,
    standing: () => fleet.standing,
  });
  const { poolSize } = primaryConfig;
  if (policy.on === 'pool_timeout' && poolSize >= Math.min(concurrency, config.gateways.maxInFlight)) {
    const reason = 'GATEWAY_POOL_SIZE is not smaller than PAYMENT_QUEUE_MAX_CONCURRENCY or GATEWAY_MAX_IN_FLIGHT';
    logger.info(`pool_timeout cannot occur: ${reason}`, { poolSize, concurrency });
  }

  const steering = watchSteering({
    redis,
    queue: queues.home,
    onChange(gateway, { state, by }) {
      logger.info('gateway steered', { gateway, state, ...by });
      (gateway === 'primary' ? primary : fallback).circuit.steer(state, by);
    },
    logger,
  });

  const places = queues.shards.length > 1 ? createPlaces(concurrency) : undefined;
  const inFlight = (): number => shards.reduce((sum, shard) => sum + shard.inFlight, 0);
  // A full worker must not lose time: it could finish payments and take others.
  const pacer = turnMs > 0 ? createPacer({ turnMs: () => turnMs * (1 - inFlight() / concurrency) }) : undefined;
  const deps = { primary, fallback, recorder, policy, rejectAfterMs, logger };
  const shards: readonly ShardWorker[] = queues.shards.map((queue, index) =>
    createShardWorker({
      serverCheck: checks.shards[index]!,
      ...{ config, redis, queue, id, pacer, steering, fleet: member, onStuck, logger },
      places: places?.ofShard(),
      process: (run, { nowMs }) => processPayment(run, { ...deps, nowMs }),
      keep: (jobs) => buryFailedJobs(jobs, { deadLetters, logger }),
    }),
  );
  let isClosing = false;
  let reopening: { close(): void } | undefined;
  let actionRunner: ActionRunner | undefined;
  async function startTaking(): Promise<void> {
    // The first one shows that PostgreSQL responds. The server of another shard may be down for long.
    await Promise.race(shards.map((shard) => shard.start()));
    if (isClosing) return;
    if (config.queue.durability === 'replica') void warnWithoutStandby(db, logger);
    // Of a process with another number of shards both would look for payments where they are not.
    await checks.all.whenUsable();
    if (isClosing) return;
    const areQueued = combineKnownChecks(shards.map((shard) => shard.areQueued));
    reopening = startReopening({ deadLetters, areQueued, logger });
    actionRunner = startActionRunner({
      actions: createOperatorActions(db),
      openDeadLetters: createOpenDeadLetters(db),
      openQueue: () => openOperatorQueue(config, logger),
      isFit: () => checks.all.fault?.code !== OTHER_SHARDS,
      workerId: id,
      logger,
    });
  }
  // A shard retries its start instead of rejecting. Any other error is a bug: as an unhandled rejection it shuts the process down.
  void startTaking();
  telemetry.describe({
    worker: () =>
      vitalsOf({
        id,
        concurrency,
        inFlight: inFlight(),
        primary,
        fallback,
        recorder,
        checks: checks.all,
        steering,
        shards,
      }),
  });
  const heartbeat = writesHeartbeat
    ? startHeartbeat({ redis, queue: queues.home, heartbeat: () => telemetry.heartbeat(), logger })
    : undefined;
  logger.info('working', { concurrency });

  return {
    async close(deadline) {
      isClosing = true;
      // From now on this worker takes no payments, so the others need not wait until it has ended.
      const heartbeatRemoved = heartbeat?.close();
      const fleetLeft = fleet.close();
      member.close();
      reopening?.close();
      const actionsEnded = actionRunner?.close();
      // Payments that wait for a gateway or the ledger return to the queue. Payments already made are still recorded.
      for (const { circuit } of [primary, fallback]) circuit.close();
      steering.close();
      recorder.abortLookUps();
      const abort = setTimeout(() => recorder.abort(), deadline - RESERVE_MS - performance.now());
      pacer?.close();
      await Promise.all(shards.map((shard) => shard.close(deadline - RESERVE_MS / 2)));
      clearTimeout(abort);
      // A statement without a reply would block the rest. It ends with the process, and the next worker records what this
      // one did not.
      const latest = deadline - RESERVE_MS / 4;
      await within(latest, recorder.close());
      if (actionsEnded) await within(latest, actionsEnded);
      await heartbeatRemoved;
      await fleetLeft;
      for (const { gateway } of [primary, fallback]) gateway.close();
      checks.all.close();
      redis.disconnect();
      await within(latest, db.destroy());
    },
  };
}

/** What a worker says about itself in the heartbeat of its process. */
function vitalsOf(of: {
  id: string;
  concurrency: number;
  inFlight: number;
  primary: Pick<GuardedGateway, 'circuit'>;
  fallback: Pick<GuardedGateway, 'circuit'>;
  recorder: Pick<Recorder, 'outage'>;
  checks: Pick<RedisCheck, 'fault'>;
  steering: Pick<SteeringWatch, 'isKnown' | 'fault'>;
  shards: readonly Pick<ShardWorker, 'fault'>[];
}): WorkerVitals {
  const { id, concurrency, inFlight, primary, fallback, steering, shards } = of;
  const { outage } = of.recorder;
  // With a fault of some shards the worker takes the payments of the others.
  const ofShards = shards.every(({ fault }) => fault !== undefined) ? shards[0]!.fault : undefined;
  // Once the steering was read, the worker goes on without.
  const fault = lastingFault(of.checks) ?? (steering.isKnown ? undefined : steering.fault) ?? ofShards;
  return {
    workerId: id,
    concurrency,
    inFlight,
    gateways: { primary: gatewayVitals(primary), fallback: gatewayVitals(fallback) },
    ...(outage && { ledgerDown: sinceOf(outage) }),
    ...(fault && { fault: sinceOf(fault) }),
  };
}

function gatewayVitals({ circuit }: Pick<GuardedGateway, 'circuit'>): GatewayVitals {
  const { cause, waiting, steered, underWay, alone } = circuit;
  return {
    ...(cause && { down: sinceOf(cause) }),
    ...(alone && { alone: sinceOf({ ...alone, detail: `worker ${process.pid} at ${hostname()}: ${alone.detail}` }) }),
    waiting,
    steered,
    underWay,
  };
}

/** In a heartbeat times are text. */
function sinceOf({ code, detail, since }: Failure & { readonly since: Date }): Since {
  return { code, detail, since: since.toISOString() };
}
