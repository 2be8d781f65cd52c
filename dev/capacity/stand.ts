import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { freePort } from '../local/ports.ts';
import { startPostgres } from '../local/postgres.ts';
import { startRedis } from '../local/redis.ts';
import { type RedisCluster, startRedisCluster } from '../local/redis-cluster.ts';
import { redisCommand } from '../local/redis-command.ts';
import { type ServiceProcess, startService } from '../local/service.ts';
import { createServices, migrate, startGateway } from '../stack.ts';
import type { LoadCounts } from './load-generator.ts';

/** How often to check whether a number of payments is reached. More often would cost PostgreSQL more than 1 % of what is measured. */
const LOOK_EVERY_MS = 250;

/** A PostgreSQL with our tables. */
export interface Ledger {
  readonly url: string;
  readonly pid: number;
  readonly version: string;
  /** Removes all payments. */
  empty(): Promise<void>;
  /** Payments that are recorded. Reads the kept totals: a count of the rows would cost more than what it counts. */
  countRecorded(): Promise<number>;
  /** Bytes of the table of payments with its indexes. */
  tableBytes(): Promise<number>;
  close(): Promise<void>;
}

export async function startLedger(): Promise<Ledger> {
  const postgres = await startPostgres();
  await migrate(postgres.url);
  const client = new pg.Client({ connectionString: postgres.url });
  await client.connect();
  const read = async (expression: string) => {
    const { rows } = await client.query<{ value: string }>(`SELECT ${expression} AS value`);
    return rows[0]!.value;
  };
  return {
    url: postgres.url,
    pid: postgres.pid,
    // A distribution adds its own number in brackets.
    version: (await read(`current_setting('server_version')`)).split(' ')[0]!,
    async empty() {
      await client.query('TRUNCATE payments');
    },
    countRecorded: async () =>
      Number(await read('coalesce((SELECT sum(payments) FROM payment_totals WHERE width_seconds = 3600), 0)')),
    tableBytes: async () => Number(await read(`pg_total_relation_size('payments')`)),
    async close() {
      await client.end();
      await postgres.dispose();
    },
  };
}

/** The Redis of a number of shards: one server, or a cluster in which each shard has a master of its own. No replicas. */
export interface Queue {
  readonly pids: readonly number[];
  /** How API and workers reach it. */
  readonly env: Readonly<Record<string, string>>;
  readonly version: string;
  /** Bytes that all servers use for their data and buffers. */
  usedBytes(): Promise<number>;
  close(): Promise<void>;
}

export async function startQueue(shards: number): Promise<Queue> {
  const { env, dispose } =
    shards === 1 ? await startSingle() : await startRedisCluster({ masters: shards, replicas: 0 });
  const { port: firstPort, password } = new URL(env['REDIS_URL']!);
  const ports = env['REDIS_CLUSTER_NODES']?.split(',').map((node) => node.split(':')[1]) ?? [firstPort];
  /** A field of INFO, of each server. */
  const info = (field: string) =>
    Promise.all(
      ports.map(async (port) => {
        const text = String(await redisCommand({ port: Number(port), password }, 'INFO'));
        return new RegExp(`^${field}:(.+?)\r?$`, 'm').exec(text)![1]!;
      }),
    );
  return {
    pids: (await info('process_id')).map(Number),
    env: { ...env, QUEUE_SHARDS: String(shards) },
    version: (await info('redis_version'))[0]!,
    usedBytes: async () => (await info('used_memory')).reduce((total, bytes) => total + Number(bytes), 0),
    close: dispose,
  };
}

async function startSingle(): Promise<Pick<RedisCluster, 'env' | 'dispose'>> {
  const { url, dispose } = await startRedis();
  return { env: { REDIS_URL: url }, dispose };
}

/** API nodes, workers and what is outside, over one queue and one ledger. */
export interface Relay {
  startApis(count: number): Promise<readonly ServiceProcess[]>;
  /** Starts a load generator for each of these API nodes. */
  startLoad(apis: readonly ServiceProcess[]): Promise<Load>;
  /** Starts workers and, for each of them, a gateway that responds at once: so the gateway never is the limit. */
  startWorkers(count: number): Promise<{ workers: readonly ServiceProcess[]; gateways: readonly ServiceProcess[] }>;
  /** The result of `run`. Rejects as soon as one of the processes ends: then the measurement means nothing. */
  whileUp<T>(run: () => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export interface Load {
  readonly pids: readonly number[];
  /** Payments that were accepted so far. @throws an Error when one was not */
  countAccepted(): Promise<number>;
  /** Resolves after the last response, with the number of accepted payments. */
  stop(): Promise<number>;
}

export async function createRelay(queue: Queue, ledger: Ledger, concurrency: number): Promise<Relay> {
  const outside: ServiceProcess[] = [];
  const down = Promise.withResolvers<never>();
  // Nobody may listen yet, and after `close` nobody does.
  down.promise.catch(() => {});
  const watch = (service: ServiceProcess): ServiceProcess => {
    void service.exited.then((code) => down.reject(new Error(`${service.name} ended with code ${code}`)));
    return service;
  };
  const nowhere = 'http://127.0.0.1:9';
  const services = await createServices({
    servers: { redis: queue.env['REDIS_URL']!, postgres: ledger.url, primary: nowhere, fallback: nowhere },
    env: {
      ...queue.env,
      NODE_ENV: 'production',
      LOG_LEVEL: 'error',
      DURABILITY: 'disk',
      PAYMENT_QUEUE_MAX_SIZE: 'infinity',
      PAYMENT_QUEUE_MAX_CONCURRENCY: String(concurrency),
      GATEWAY_POOL_SIZE: String(concurrency),
      // With more processes than cores a response may take long. It must not become an unresolved attempt.
      GATEWAY_TIMEOUT_CAP_MS: '30000',
      GATEWAY_RECEIVE_TIMEOUT_MS: '30000',
      GATEWAY_POOL_TIMEOUT_MS: '30000',
    },
  });

  return {
    startApis: (count) => Promise.all(Array.from({ length: count }, async () => watch(await services.startApi()))),
    async startLoad(apis) {
      const generators = await Promise.all(apis.map(startGenerator));
      outside.push(...generators.map(watch));
      return loadOf(generators);
    },
    async startWorkers(count) {
      const started = await Promise.all(
        Array.from({ length: count }, async () => {
          const gateway = await startGateway('gateway', await freePort(), 0);
          outside.push(gateway);
          const worker = await services.startWorker({ env: { GATEWAY_PRIMARY_URL: gateway.url! } });
          return { gateway: watch(gateway), worker: watch(worker) };
        }),
      );
      return { workers: started.map(({ worker }) => worker), gateways: started.map(({ gateway }) => gateway) };
    },
    whileUp: (run) => Promise.race([run(), down.promise]),
    async close() {
      await services.stop();
      await Promise.all(outside.map((each) => each.kill()));
    },
  };
}

async function startGenerator(api: ServiceProcess): Promise<ServiceProcess> {
  return startService({
    name: 'load',
    script: 'dev/capacity/load-generator.ts',
    env: { TARGET_PORT: new URL(api.url!).port },
    port: await freePort(),
  });
}

function loadOf(generators: readonly ServiceProcess[]): Load {
  async function count(path: '/' | '/stop'): Promise<number> {
    const counts = await Promise.all(
      generators.map(async ({ url }) => (await (await fetch(`${url}${path}`)).json()) as LoadCounts),
    );
    const notAccepted = counts.reduce((total, each) => total + each.notAccepted, 0);
    if (notAccepted > 0) throw new Error(`${notAccepted} payments were not accepted, so the figures mean nothing`);
    return counts.reduce((total, { accepted }) => total + accepted, 0);
  }
  return {
    pids: generators.map(({ pid }) => pid),
    countAccepted: () => count('/'),
    stop: () => count('/stop'),
  };
}

/** Resolves with the number once it is reached, or when `maxMs` have passed. */
export async function untilReached(number: number, count: () => Promise<number>, maxMs: number): Promise<number> {
  const endsAtMs = performance.now() + maxMs;
  for (;;) {
    const reached = await count();
    if (reached >= number || performance.now() >= endsAtMs) return reached;
    await sleep(LOOK_EVERY_MS);
  }
}
