import type { Cluster } from 'ioredis';
import { freePort } from '../../dev/local/ports.ts';
import { startPostgres } from '../../dev/local/postgres.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { startRedisCluster } from '../../dev/local/redis-cluster.ts';
import type { ServiceProcess } from '../../dev/local/service.ts';
import { migrate, startGateway } from '../../dev/stack.ts';
import { loadConfig } from '../../src/config.ts';
import { combineEnqueuers, createEnqueuer, type Enqueuer } from '../../src/queue/enqueuer.ts';
import { createProducerConnection, firstConnection } from '../../src/queue/redis.ts';
import { paymentQueues } from '../../src/queue/shards.ts';
import { sql } from '../support/services.ts';
import { familyOf, median, type Result, scheduledMicros } from './measure.ts';
import { CONCURRENCY, connectedEnqueuer, newJob, note, ROUNDS, startWorker, untilRecorded } from './stage.ts';

const SHARDS = 4;

/** Payments of one round. */
const PAID = Number(process.env['BENCH_SHARDS_PAID'] ?? 8_000);

const PARTS = ['workers', 'Redis', 'PostgreSQL'] as const;

/** Four workers over queues on four servers. */
interface Stand {
  readonly name: 'shards' | 'queues';
  readonly enqueuer: Pick<Enqueuer, 'enqueue'>;
  readonly redisPids: readonly number[];
  readonly workers: readonly ServiceProcess[];
  close(): Promise<void>;
}

/**
 * Four shards on a cluster of four masters, beside four queues of their own on four servers, each with a quarter of the payments and
 * a worker of its own. Both have four workers of the same concurrency, one ledger and one gateway. Where the cores are the limit,
 * the CPU per payment says what would be paid a second on more of them, so that is the budget.
 */
export async function shards(): Promise<Result[]> {
  const postgres = await startPostgres();
  await migrate(postgres.url);
  const gateway = await startGateway('gateway', await freePort(), 0.05);
  const urls = { databaseUrl: postgres.url, gatewayUrl: gateway.url! };
  const stands = [await shardsOfOne(urls), await queuesOfTheirOwn(urls)];
  const values = new Map<string, number[]>();
  for (let round = 0; round <= ROUNDS; round += 1) {
    for (const stand of round % 2 === 0 ? stands : stands.toReversed()) {
      await sql(postgres.url, 'TRUNCATE payments');
      const measured = await measure(stand, postgres);
      // The first round warms up.
      if (round === 0) continue;
      for (const [what, value] of Object.entries(measured)) note(values, `${stand.name} ${what}`, value);
    }
  }
  for (const stand of stands) await stand.close();
  await gateway.stop();
  await postgres.dispose();
  const of = (name: string, what: string) => median(values.get(`${name} ${what}`)!);
  const cpu = (name: string) =>
    `${of(name, 'total').toFixed(0)} µs (${PARTS.map((part) => `${part} ${of(name, part).toFixed(0)}`).join(', ')})`;
  return [
    {
      what: `shards: CPU per payment of four independent queues, beside four shards (concurrency ${CONCURRENCY})`,
      ours: cpu('shards'),
      baseline: cpu('queues'),
      ratio: of('queues', 'total') / of('shards', 'total'),
      budget: 0.9,
      atLeast: true,
    },
    {
      what: 'shards: payments paid and recorded a second, beside four independent queues',
      ours: `${of('shards', 'rate').toFixed(0)}/s`,
      baseline: `${of('queues', 'rate').toFixed(0)}/s`,
      ratio: of('shards', 'rate') / of('queues', 'rate'),
      budget: undefined,
    },
  ];
}

/** From the first enqueued payment to the last recorded one. CPU in µs per payment. */
async function measure({ enqueuer, workers, redisPids }: Stand, postgres: { url: string; pid: number }) {
  const pids = {
    workers: workers.map(({ pid }) => pid),
    Redis: redisPids,
    PostgreSQL: familyOf(postgres.pid),
  };
  const used = () => PARTS.map((part) => scheduledMicros(pids[part]));
  const [before, startedAt] = [used(), performance.now()];
  await Promise.all(Array.from({ length: PAID }, () => enqueuer.enqueue(newJob())));
  await untilRecorded(postgres.url, PAID);
  const seconds = (performance.now() - startedAt) / 1_000;
  const perPayment = used().map((micros, index) => (micros - before[index]!) / PAID);
  return {
    ...Object.fromEntries(PARTS.map((part, index) => [part, perPayment[index]!])),
    total: perPayment.reduce((sum, micros) => sum + micros, 0),
    rate: PAID / seconds,
  };
}

async function shardsOfOne(urls: { databaseUrl: string; gatewayUrl: string }): Promise<Stand> {
  const cluster = await startRedisCluster({ masters: SHARDS, replicas: 0 });
  const env: Readonly<Record<string, string>> = { ...cluster.env, QUEUE_SHARDS: String(SHARDS) };
  const redis = createProducerConnection(loadConfig({ ...env, DATABASE_URL: urls.databaseUrl }).redis) as Cluster;
  await firstConnection(redis);
  const enqueuers = paymentQueues({ name: 'payments', shards: SHARDS }).shards.map((queue) =>
    createEnqueuer({ redis, queue, maxSize: 1e9, shards: SHARDS, serverCheck: { fault: undefined } }),
  );
  const infos = await Promise.all(redis.nodes('master').map((node) => node.info('server')));
  const workers = await Promise.all(
    Array.from({ length: SHARDS }, () => startWorker({ ...urls, redisUrl: env['REDIS_URL']! }, CONCURRENCY, env)),
  );
  return {
    name: 'shards',
    enqueuer: combineEnqueuers(enqueuers),
    redisPids: infos.map((info) => Number(/^process_id:(\d+)/m.exec(info)![1])),
    workers,
    async close() {
      for (const worker of workers) await worker.stop();
      redis.disconnect();
      await cluster.dispose();
    },
  };
}

async function queuesOfTheirOwn(urls: { databaseUrl: string; gatewayUrl: string }): Promise<Stand> {
  const servers = await Promise.all(Array.from({ length: SHARDS }, () => startRedis()));
  const producers = await Promise.all(servers.map(({ url }) => connectedEnqueuer(url)));
  const workers = await Promise.all(servers.map(({ url }) => startWorker({ ...urls, redisUrl: url })));
  return {
    name: 'queues',
    // As the ids of shards, these spread evenly.
    enqueuer: combineEnqueuers(producers.map(({ enqueuer }) => enqueuer)),
    redisPids: servers.map(({ pid }) => pid),
    workers,
    async close() {
      for (const worker of workers) await worker.stop();
      for (const { producer } of producers) producer.disconnect();
      for (const server of servers) await server.dispose();
    },
  };
}
