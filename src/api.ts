import type { Config } from './config.ts';
import { createApp } from './http/app.ts';
import { listenFault } from './http/listen-fault.ts';
import { createRoutes } from './http/routes.ts';
import { type HttpServer, startServer } from './http/server.ts';
import { createDb } from './ledger/db.ts';
import { createDeadLetters } from './ledger/dead-letters.ts';
import { createLedger } from './ledger/ledger.ts';
import { createOperatorActions } from './ledger/operator-actions.ts';
import { createReconciliations } from './ledger/reconciliations.ts';
import { createLateRows, startMovingLateRows } from './operations/late-rows.ts';
import { createPaymentStatus } from './operations/payment-status.ts';
import { createRelayGauges } from './operations/relay-gauges.ts';
import { createRelayHealthCheck, LOOK_EVERY_MS } from './operations/relay-health.ts';
import { createTrail } from './operations/trail.ts';
import { within } from './process/deadline.ts';
import type { Service } from './process/lifecycle.ts';
import type { Logger } from './process/logger.ts';
import { ConfigError } from './process/settings.ts';
import { createActionOutbox } from './queue/action-outbox.ts';
import { combineEnqueuers, createEnqueuer } from './queue/enqueuer.ts';
import { mayBeReplaced } from './queue/epoch.ts';
import { combinePaymentFinders, createPaymentFinder } from './queue/find-payment.ts';
import { startHeartbeat } from './queue/heartbeats.ts';
import { createProducerShards } from './queue/producer-shards.ts';
import { createQueueAdmin } from './queue/queue-admin.ts';
import { createQueueWatch } from './queue/queue-state.ts';
import { createProducerConnection, firstConnection, logConnection } from './queue/redis.ts';
import { capacityOf, capOfShard, paymentQueues } from './queue/shards.ts';
import type { Telemetry } from './telemetry/telemetry.ts';

/** A running API node. `close()` drains it first. */
export interface Api extends Service {
  /** Undefined when it listens at a Unix socket. */
  readonly port: number | undefined;
}

/**
 * Starts an API node. It listens even while Redis and PostgreSQL are down, and serves requests once they are up.
 * @throws ConfigError when it cannot listen at HOST and PORT
 */
export async function startApi(config: Config, logger: Logger, telemetry: Telemetry): Promise<Api> {
  const queues = paymentQueues(config.queue);
  const { home: queue } = queues;
  const redis = createProducerConnection(config.redis);
  logConnection(redis, logger);
  const db = createDb(config.database);
  const maxSize = capacityOf(config.queue);
  const shards = createProducerShards(config, { redis, queues, logger });
  const enqueuer = combineEnqueuers(
    shards.each.map((shard) =>
      createEnqueuer({
        ...{ ...shard, maxSize: capOfShard(config.queue), shards: config.queue.shards },
        notesTime: mayBeReplaced(config),
      }),
    ),
  );
  const queueAdmin = createQueueAdmin(config.redis, queues);
  const ledger = createLedger(db);
  const queueWatch = createQueueWatch({ redis, queue, shards: queues.shards });
  const refusal = () => heartbeat.refusal;
  const healthCheck = createRelayHealthCheck({ queueWatch, refusal, ledger, serverCheck: shards.check, maxSize });
  const jobs = combinePaymentFinders(shards.each.map(createPaymentFinder));
  const deadLetters = createDeadLetters(db, config.deadLetters);
  const reconciliations = createReconciliations(db);
  const actions = createOperatorActions(db);
  const lateRows = createLateRows({ outbox: createActionOutbox({ redis, queue }), actions, logger });
  const trail = createTrail({ actions, lateRows, logger });
  telemetry.describe({
    problems: () => healthCheck.seen,
    gauges: createRelayGauges({ healthCheck, deadLetters, reconciliations, maxSize }),
  });
  let lookedAtMs = Number.NEGATIVE_INFINITY;
  const heartbeat = startHeartbeat({
    redis,
    queue,
    async heartbeat() {
      if (performance.now() - lookedAtMs > LOOK_EVERY_MS - HALF_A_BEAT_MS) {
        lookedAtMs = performance.now();
        await healthCheck.look();
      }
      return telemetry.heartbeat();
    },
    logger,
  });
  const findPaymentStatus = createPaymentStatus({ jobs, ledger, queueWatch });
  const operatorRoutes = config.http.dashboard
    ? (await import('./operator.ts')).createOperator(config, {
        ...{
          redis,
          db,
          queues,
          shards,
          enqueuer,
          queueAdmin,
          queueWatch,
          jobs,
          ledger,
          deadLetters,
          reconciliations,
          actions,
        },
        ...{ findPaymentStatus, healthCheck, trail },
      })
    : [];
  let isAccepting = true;
  const routes = createRoutes(
    {
      ...{ enqueuer, queueAdmin, ledger, deadLetters, findPaymentStatus, healthCheck, logger },
      metrics: telemetry.metrics,
      metricsToken: config.metricsToken,
      config: config.http,
      isAccepting: () => isAccepting,
    },
    operatorRoutes,
  );
  const { dashboard: operator, viewer } = config.http;
  const app = createApp(routes, { logins: operator && { operator, viewer }, trail, logger });
  // Connect to Redis before the first request arrives. If Redis is down, listen all the same.
  await firstConnection(redis);
  if (redis.status === 'ready') {
    const usable = Promise.all(shards.each.map(({ serverCheck }) => serverCheck.whenUsable()));
    await within(performance.now() + FIRST_CHECK_MS, usable);
  }
  let server: HttpServer;
  try {
    server = await startServer(app, config);
  } catch (error) {
    await heartbeat.close();
    shards.close();
    redis.disconnect();
    const fault = listenFault(config, error as NodeJS.ErrnoException, 'PORT');
    throw fault === undefined ? error : new ConfigError([fault]);
  }
  const movingLateRows = startMovingLateRows({ lateRows, logger });
  const { port } = server;
  logger.info('listening', { host: config.host, port });

  return {
    port,
    async close(deadline) {
      isAccepting = false;
      await server.drain(deadline);
      await within(deadline, trail.close());
      movingLateRows.close();
      await enqueuer.close();
      await heartbeat.close();
      shards.close();
      await queueAdmin.close();
      redis.disconnect();
      await db.destroy();
    },
  };
}

/** Timers are late, never early. */
const HALF_A_BEAT_MS = 500;

/** How long the start waits for the first check of Redis. After it, the API listens without the result. */
const FIRST_CHECK_MS = 500;
