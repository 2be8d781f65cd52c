import type { Cluster } from 'ioredis';
import { freePort } from '../../dev/local/ports.ts';
import { startPostgres } from '../../dev/local/postgres.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { type RedisCluster, startRedisCluster } from '../../dev/local/redis-cluster.ts';
import type { ServiceProcess } from '../../dev/local/service.ts';
import { migrate, startGateway } from '../../dev/stack.ts';
import { loadConfig } from '../../src/config.ts';
import type { PaymentQueueName } from '../../src/queue/bullmq-layout.ts';
import { combineEnqueuers, createEnqueuer, type Enqueuer } from '../../src/queue/enqueuer.ts';
import { createProducerConnection, firstConnection } from '../../src/queue/redis.ts';
import { paymentQueues } from '../../src/queue/shards.ts';
import { sql } from '../support/services.ts';
import { familyOf, median, type Result, scheduledMicros } from './measure.ts';
import { CONCURRENCY, connectedEnqueuer, newJob, note, ROUNDS, startWorker, untilRecorded } from './stage.ts';

const SHARDS = 4;

/** Payments of one round. */
const PAID = Number(process.env['BENCH_SHARDS_PAID'] ?? 24_000);

/** Some 1 % of a round. */
const COUNT_EVERY_MS = 100;

/** Payments enqueued at once: a process keeps no more than 10,000 waiting. */
const AT_ONCE = 4_000;

const PARTS = ['workers', 'Redis', 'PostgreSQL'] as const;

/** Four workers over queues on four servers. */
interface Stand {
  readonly name: 'shards' | 'queues' | 'plain';
  readonly enqueuer: Pick<Enqueuer, 'enqueue'>;
  readonly redisPids: readonly number[];
  readonly workers: readonly ServiceProcess[];
  close(): Promise<void>;
}

/**
 * Four shards on a cluster of four masters, beside four queues that know nothing of each other, each with a quarter of the payments
 * and a worker of its own: on the same cluster, and on four servers without a cluster, where a payment costs less whatever the
 * queues. All have four workers of the same concurrency, one ledger and one gateway. Where the cores are the limit, the CPU per
 * payment says what would be paid a second on more of them, so that is the budget.
 */
export async function shards(): Promise<Result[]> {
  const postgres = await startPostgres();
  await migrate(postgres.url);
  const gateway = await startGateway('gateway', await freePort(), 0.05);
  const urls = { databaseUrl: postgres.url, gatewayUrl: gateway.url! };
  const cluster = await startRedisCluster({ masters: SHARDS, replicas: 0 });
  const stands = [
    await shardsOfOne(cluster, urls),
    await queuesOfTheirOwn(cluster, urls),
    await queuesOnPlainServers(urls),
  ];
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
  await cluster.dispose();
  await gateway.stop();
  await postgres.dispose();
  const of = (name: string, what: string) => median(values.get(`${name} ${what}`)!);
  const cpu = (name: string) =>
    `${of(name, 'total').toFixed(0)} µs (${PARTS.map((part) => `${part} ${of(name, part).toFixed(0)}`).join(', ')})`;
  const rate = (name: string) => `${of(name, 'rate').toFixed(0)}/s`;
  return [
    {
      what: `shards: CPU per payment of four queues of their own on the same cluster, beside four shards (concurrency ${CONCURRENCY})`,
      ours: `${cpu('shards')}, ${rate('shards')}`,
      baseline: `${cpu('queues')}, ${rate('queues')}`,
      ratio: of('queues', 'total') / of('shards', 'total'),
      budget: 0.9,
      atLeast: true,
    },
    {
      what: 'shards: the same beside four queues on servers without a cluster',
      ours: `${cpu('shards')}, ${rate('shards')}`,
      baseline: `${cpu('plain')}, ${rate('plain')}`,
      ratio: of('plain', 'total') / of('shards', 'total'),
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
  for (let left = PAID; left > 0; left -= AT_ONCE) {
    await Promise.all(Array.from({ length: Math.min(left, AT_ONCE) }, () => enqueuer.enqueue(newJob())));
  }
  await untilRecorded(postgres.url, PAID, COUNT_EVERY_MS);
  const seconds = (performance.now() - startedAt) / 1_000;
  const perPayment = used().map((micros, index) => (micros - before[index]!) / PAID);
  return {
    ...Object.fromEntries(PARTS.map((part, index) => [part, perPayment[index]!])),
    total: perPayment.reduce((sum, micros) => sum + micros, 0),
    rate: PAID / seconds,
  };
}

interface Urls {
  readonly databaseUrl: string;
  readonly gatewayUrl: string;
}

function shardsOfOne(cluster: RedisCluster, urls: Urls): Promise<Stand> {
  const { shards: queues } = paymentQueues({ name: 'payments', shards: SHARDS });
  return onCluster('shards', {
    cluster,
    urls,
    queues,
    shards: SHARDS,
    envOf: () => ({ QUEUE_SHARDS: String(SHARDS) }),
  });
}

function queuesOfTheirOwn(cluster: RedisCluster, urls: Urls): Promise<Stand> {
  // On the same masters as shards would be.
  const { shards: queues } = paymentQueues({ name: 'payments', prefix: '{queue}', shards: SHARDS });
  return onCluster('queues', {
    ...{ cluster, urls, queues, shards: 1 },
    envOf: ({ prefix }) => ({ REDIS_KEY_PREFIX: prefix.slice(1, -1) }),
  });
}

async function onCluster(
  name: Stand['name'],
  {
    cluster,
    urls,
    queues,
    shards: count,
    envOf,
  }: {
    cluster: RedisCluster;
    urls: Urls;
    queues: readonly PaymentQueueName[];
    /** Of each relay. */
    shards: number;
    /** Of the worker that is started with each queue. */
    envOf: (queue: PaymentQueueName) => Readonly<Record<string, string>>;
  },
): Promise<Stand> {
  const redis = createProducerConnection(
    loadConfig({ ...cluster.env, DATABASE_URL: urls.databaseUrl }).redis,
  ) as Cluster;
  await firstConnection(redis);
  const enqueuers = queues.map((queue) =>
    createEnqueuer({ redis, queue, maxSize: 1e9, shards: count, serverCheck: { fault: undefined } }),
  );
  const infos = await Promise.all(redis.nodes('master').map((node) => node.info('server')));
  const workers = await Promise.all(
    queues.map((queue) =>
      startWorker({ ...urls, redisUrl: cluster.env['REDIS_URL']! }, CONCURRENCY, { ...cluster.env, ...envOf(queue) }),
    ),
  );
  return {
    name,
    enqueuer: combineEnqueuers(enqueuers),
    redisPids: infos.map((info) => Number(/^process_id:(\d+)/m.exec(info)![1])),
    workers,
    async close() {
      for (const worker of workers) await worker.stop();
      redis.disconnect();
    },
  };
}

async function queuesOnPlainServers(urls: Urls): Promise<Stand> {
  const servers = await Promise.all(Array.from({ length: SHARDS }, () => startRedis()));
  const producers = await Promise.all(servers.map(({ url }) => connectedEnqueuer(url)));
  const workers = await Promise.all(servers.map(({ url }) => startWorker({ ...urls, redisUrl: url })));
  return {
    name: 'plain',
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
