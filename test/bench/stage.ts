import { randomUUID } from 'node:crypto';
import { Redis } from 'ioredis';
import { startService } from '../../dev/local/service.ts';
import { createEnqueuer } from '../../src/queue/enqueuer.ts';
import { paymentQueue } from '../../src/queue/payment-queue.ts';
import { createProducerConnection, firstConnection } from '../../src/queue/redis.ts';
import { sql } from '../support/services.ts';
import type { Round } from './measure.ts';

export const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 5);
export const REQUESTS = 20_000;
export const CONCURRENCY = 64;
/** Payments of one round of a worker. */
export const DRAINED = 6_000;

export const payload = () => `{"correlationId":"${randomUUID()}","amount":19.9}`;

export function newJob(): { id: string; data: string } {
  const id = randomUUID();
  return { id, data: `{"correlationId":"${id}","amount":19.9}` };
}

/** A worker as shipped. */
export function startWorker(
  urls: { redisUrl: string; databaseUrl: string; gatewayUrl: string },
  concurrency: number = CONCURRENCY,
  env: Readonly<Record<string, string>> = {},
) {
  return startService({
    name: 'worker',
    script: 'src/main.ts',
    env: {
      APP_ROLE: 'worker',
      LOG_LEVEL: 'info',
      NODE_ENV: 'production',
      REDIS_URL: urls.redisUrl,
      DATABASE_URL: urls.databaseUrl,
      GATEWAY_PRIMARY_URL: urls.gatewayUrl,
      GATEWAY_FALLBACK_URL: urls.gatewayUrl,
      PAYMENT_QUEUE_MAX_CONCURRENCY: String(concurrency),
      GATEWAY_POOL_SIZE: String(concurrency),
      ...env,
    },
  });
}

/** @param everyMs how often to count: each count costs PostgreSQL more, the more are recorded */
export async function untilRecorded(databaseUrl: string, payments: number, everyMs = 20): Promise<void> {
  for (;;) {
    const [row] = await sql<{ count: string }>(databaseUrl, 'SELECT count(*) FROM payments');
    if (Number(row!.count) >= payments) return;
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}

export function note(map: Map<string, number[]>, name: string, value: number): void {
  map.set(name, [...(map.get(name) ?? []), value]);
}

export function expectAll({ unexpected }: Round, name: string): void {
  if (unexpected > 0) throw new Error(`${name} sent ${unexpected} unexpected responses`);
}

/** Empties Redis between rounds. deep-queue.ts measures a full one. */
export async function flush(url: string): Promise<void> {
  const redis = new Redis(url);
  await redis.flushall();
  redis.disconnect();
}

/** An API node's enqueuer without a cap, connected to this Redis. */
export async function connectedEnqueuer(redisUrl: string) {
  const producer = createProducerConnection({ url: redisUrl, clusterNodes: [] });
  await firstConnection(producer);
  const enqueuer = createEnqueuer({
    redis: producer,
    queue: paymentQueue({ name: 'payments' }),
    maxSize: 1e9,
    serverCheck: { fault: undefined },
  });
  return { producer, enqueuer };
}
