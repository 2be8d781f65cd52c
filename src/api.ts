import { createServer, type Server } from 'node:http';
import { Server as NetServer } from 'node:net';
import type { Config } from './config.ts';
import { createApp } from './http/app.ts';
import { listen } from './http/server.ts';
import { createDb } from './ledger/db.ts';
import { createDeadLetters } from './ledger/dead-letters.ts';
import { createLedger } from './ledger/ledger.ts';
import { within } from './process/deadline.ts';
import type { Service } from './process/lifecycle.ts';
import type { Logger } from './process/logger.ts';
import { createEnqueuer } from './queue/enqueuer.ts';
import { paymentQueue, QUEUE_PREFIX } from './queue/payment-queue.ts';
import { createQueueAdmin } from './queue/queue-admin.ts';
import { createProducerConnection, firstConnection, logConnection } from './queue/redis.ts';
import { createServerCheck } from './queue/server-check.ts';

/** A running API node. */
export interface Api extends Service {
  /** Undefined at a Unix socket. */
  readonly port: number | undefined;
}

/**
 * Starts an API node. It listens whether or not Redis and PostgreSQL are there, and serves as soon as they are.
 * @throws the error of listening: the port is taken, or not ours to take.
 */
export async function startApi(config: Config, logger: Logger, prefix = QUEUE_PREFIX): Promise<Api> {
  const queue = paymentQueue(config.queue, prefix);
  const redis = createProducerConnection(config.redis);
  logConnection(redis, logger);
  const db = createDb(config.database);
  const { durability, maxSize } = config.queue;
  const serverCheck = createServerCheck({ redis, queue, durability, role: 'api', logger });
  const enqueuer = createEnqueuer({ redis, queue, maxSize, serverCheck });
  const queueAdmin = createQueueAdmin(config.redis, queue);
  let isAccepting = true;
  const app = createApp({
    enqueuer,
    queueAdmin,
    ledger: createLedger(db),
    deadLetters: createDeadLetters(db, config.deadLetters),
    config: config.http,
    logger,
    isAccepting: () => isAccepting,
  });
  const server = createServer(app);
  // nginx keeps its connections for 60 s; the end that closes first must be nginx's, or a request meets a closed socket.
  server.keepAliveTimeout = 65_000;

  // With Redis there, the first request must not come before the connection; without it, the API serves all the same.
  await firstConnection(redis);
  if (redis.status === 'ready') await within(performance.now() + FIRST_CHECK_MS, serverCheck.whenUsable());
  try {
    await listen(server, config);
  } catch (error) {
    serverCheck.close();
    redis.disconnect();
    throw error;
  }
  const address = server.address();
  const port = typeof address === 'string' ? undefined : address?.port;
  logger.info('listening', { host: config.host, port });

  return {
    port,
    async close(deadline) {
      isAccepting = false;
      await drain(server, deadline);
      await enqueuer.close();
      serverCheck.close();
      await queueAdmin.close();
      redis.disconnect();
      await db.destroy();
    },
  };
}

/** How long the first look at Redis may take before the API serves without it. */
const FIRST_CHECK_MS = 500;

/** How long kept connections get to bring a last request, and with its answer the word that this was the last. */
const LAST_REQUESTS_MS = 500;

/** How long, after that, an upload under way may take. */
const SLOW_UPLOADS_MS = 3_000;

/**
 * Ends a server without leaving a request unanswered: nothing new is accepted, every further answer closes its
 * connection, and only then are the silent connections closed.
 */
async function drain(server: Server, deadline: number): Promise<void> {
  // An HTTP server's own close ends idle connections at once, into which a load balancer may be sending just now.
  const closed = new Promise<void>((resolve) => NetServer.prototype.close.call(server, () => resolve()));
  server.prependListener('request', (_request, response) => response.setHeader('Connection', 'close'));
  await within(performance.now() + LAST_REQUESTS_MS, closed);
  // Again and again, for those whose request came before the signal and whose answer did not tell them to close.
  const closeIdle = setInterval(() => server.closeIdleConnections(), 50);
  // Every request is answered within a second of its body; what is left by then is a client that does not send it.
  await within(Math.min(performance.now() + SLOW_UPLOADS_MS, deadline - LAST_REQUESTS_MS), closed);
  clearInterval(closeIdle);
  server.closeAllConnections();
  await closed;
}
