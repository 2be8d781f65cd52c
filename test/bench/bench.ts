import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { percentile } from '../../dev/load.ts';
import { freePort } from '../../dev/local/ports.ts';
import { startPostgres } from '../../dev/local/postgres.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { startService } from '../../dev/local/service.ts';
import { migrate, startGateway } from '../../dev/stack.ts';
import { loadConfig } from '../../src/config.ts';
import { createDb } from '../../src/ledger/db.ts';
import { createLedger } from '../../src/ledger/ledger.ts';
import { createEnqueuer } from '../../src/queue/enqueuer.ts';
import { JOB_OPTIONS, paymentQueue } from '../../src/queue/payment-queue.ts';
import { createProducerConnection, firstConnection } from '../../src/queue/redis.ts';
import { sql } from '../support/services.ts';
import {
  cpuMicros,
  isWithinBudget,
  median,
  memoryMegabytes,
  postMany,
  type Result,
  type Round,
  showTable,
} from './measure.ts';

/**
 * `npm run bench [part…]`: the budgets, each beside its baseline in the same run, in alternating rounds, by medians.
 * CPU is read from the operating system's accounting. Exits 1 when a budget is missed. Parts: accept drain enqueue deep summary.
 */
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 5);
const REQUESTS = 20_000;
const CONNECTIONS = 100;
const DRAINED = 6_000;
const CONCURRENCY = 64;
/** The default of a machine with two cores. */
const SMALL_CONCURRENCY = 4;
/** Payments a second that such a worker is to reach, whatever waits for the disk. */
const SMALL_RATE = 600;
const DEEP = Number(process.env['BENCH_DEEP'] ?? 1_000_000);
const LEDGER_ROWS = Number(process.env['BENCH_LEDGER_ROWS'] ?? 10_000_000);

const payload = () => `{"correlationId":"${randomUUID()}","amount":19.9}`;
const parts: Record<string, () => Promise<Result[]>> = { accept, drain, enqueue, deep, summary };

/** The API's CPU for each accepted payment. */
async function accept(): Promise<Result[]> {
  const redis = await startRedis();
  const env = { REDIS_URL: redis.url, NODE_ENV: 'production' };
  const service = async (name: string, script: string, extra: Record<string, string> = {}) =>
    startService({ name, script, env: { ...env, ...extra }, port: await freePort(), readyWhen: /listening/ });
  const ours = await service('Payrelay', 'src/main.ts', {
    APP_ROLE: 'api',
    LOG_LEVEL: 'info',
    HOST: '127.0.0.1',
    PAYMENT_QUEUE_MAX_SIZE: '50000000',
  });
  const baseline = await service('Express', 'test/bench/express-baseline.ts');
  const naive = await service('naive', 'test/bench/naive.ts', { APP_ROLE: 'api', HOST: '127.0.0.1' });
  const services = [baseline, ours, naive];
  const cpu = new Map<string, number[]>();
  const redisCpu = new Map<string, number[]>();
  const p99 = new Map<string, number[]>();
  for (let round = 0; round <= ROUNDS; round += 1) {
    for (const each of services) {
      const [before, redisBefore] = [cpuMicros(each.pid), cpuMicros(redis.pid)];
      const result = await postMany({
        port: Number(new URL(each.url!).port),
        count: REQUESTS,
        connections: CONNECTIONS,
        body: payload,
      });
      expectAll(result, each.name);
      // The first round warms up.
      if (round === 0) continue;
      note(cpu, each.name, (cpuMicros(each.pid) - before) / REQUESTS);
      note(redisCpu, each.name, (cpuMicros(redis.pid) - redisBefore) / REQUESTS);
      note(p99, each.name, percentile(result.latenciesMs, 0.99));
    }
    await flush(redis.url);
  }
  for (const each of services) await each.stop();
  await redis.dispose();
  const of = (map: Map<string, number[]>, name: string) => median(map.get(name)!);
  const show = (name: string) =>
    `${of(cpu, name).toFixed(1)} µs (Redis ${of(redisCpu, name).toFixed(1)}), p99 ${of(p99, name).toFixed(1)} ms`;
  return [
    {
      what: 'accept: API CPU per payment, beside Express + express.json answering 204',
      ours: show('Payrelay'),
      baseline: show('Express'),
      ratio: of(cpu, 'Payrelay') / of(cpu, 'Express'),
      budget: 1.6,
    },
    {
      what: 'accept: the same beside a naive API (count, then add)',
      ours: show('Payrelay'),
      baseline: show('naive'),
      ratio: of(cpu, 'Payrelay') / of(cpu, 'naive'),
      budget: undefined,
    },
  ];
}

function startWorker(
  urls: { redisUrl: string; databaseUrl: string; gatewayUrl: string },
  concurrency: number = CONCURRENCY,
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
    },
    readyWhen: /working/,
  });
}

async function untilRecorded(databaseUrl: string, payments: number): Promise<void> {
  for (;;) {
    const [row] = await sql<{ count: string }>(databaseUrl, 'SELECT count(*) FROM payments');
    if (Number(row!.count) >= payments) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/**
 * The worker's CPU for each payment, recording included, beside a bare got loop doing the same POSTs; and the payments a
 * second of a worker with few places. Redis and PostgreSQL wait for the disk, as shipped.
 */
async function drain(): Promise<Result[]> {
  const redis = await startRedis({ args: ['--appendfsync', 'always'] });
  const postgres = await startPostgres();
  await migrate(postgres.url);
  const gateway = await startGateway('gateway', await freePort(), 0.05);
  const urls = { redisUrl: redis.url, databaseUrl: postgres.url, gatewayUrl: gateway.url! };
  const worker = await startWorker(urls);
  const loop = spawn(process.execPath, [fileURLToPath(new URL('got-loop.ts', import.meta.url))], {
    env: { CONCURRENCY: String(CONCURRENCY), GATEWAY_URL: gateway.url! },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(loop.stdout, 'data');

  const producer = createProducerConnection({ url: redis.url, clusterNodes: [] });
  await firstConnection(producer);
  const enqueuer = createEnqueuer({
    redis: producer,
    queue: paymentQueue({ name: 'payments' }),
    maxSize: 1e9,
    serverCheck: { refusal: undefined },
  });
  let enqueued = 0;
  const viaWorker = async () => {
    enqueued += DRAINED;
    await Promise.all(Array.from({ length: DRAINED }, () => enqueuer.enqueue(newJob())));
    await untilRecorded(postgres.url, enqueued);
  };
  const viaLoop = async () => {
    loop.stdin.write(`${DRAINED}\n`);
    await once(loop.stdout, 'data');
  };

  const cpu = new Map<string, number[]>();
  const rate = new Map<string, number[]>();
  const others = new Map<string, number[]>();
  const measure = async (name: string, pid: number, round: number, run: () => Promise<void>) => {
    const [before, redisBefore, startedAt] = [cpuMicros(pid), cpuMicros(redis.pid), performance.now()];
    await run();
    // The first round warms up.
    if (round === 0) return;
    note(cpu, name, (cpuMicros(pid) - before) / DRAINED);
    note(others, name, (cpuMicros(redis.pid) - redisBefore) / DRAINED);
    note(rate, name, DRAINED / ((performance.now() - startedAt) / 1000));
  };
  for (let round = 0; round <= ROUNDS; round += 1) {
    await measure('loop', loop.pid!, round, viaLoop);
    await measure('worker', worker.pid, round, viaWorker);
  }
  await worker.stop();
  const small = await startWorker(urls, SMALL_CONCURRENCY);
  for (let round = 0; round <= ROUNDS; round += 1) await measure('small', small.pid, round, viaWorker);
  await small.stop();
  producer.disconnect();
  loop.stdin.end();
  loop.kill();
  await gateway.stop();
  await postgres.dispose();
  await redis.dispose();
  const of = (map: Map<string, number[]>, name: string) => median(map.get(name)!);
  const show = (name: string) =>
    `${of(cpu, name).toFixed(0)} µs (Redis ${of(others, name).toFixed(0)}), ${of(rate, name).toFixed(0)}/s`;
  return [
    {
      what: `drain: worker CPU per payment, recording included, beside a bare got loop (concurrency ${CONCURRENCY})`,
      ours: show('worker'),
      baseline: `${of(cpu, 'loop').toFixed(0)} µs, ${of(rate, 'loop').toFixed(0)}/s`,
      ratio: of(cpu, 'worker') / of(cpu, 'loop'),
      budget: 1.3,
    },
    {
      what: `drain: payments a second, beside ${SMALL_RATE}/s (concurrency ${SMALL_CONCURRENCY})`,
      ours: show('small'),
      baseline: `${SMALL_RATE}/s`,
      ratio: of(rate, 'small') / SMALL_RATE,
      budget: 1,
      atLeast: true,
    },
  ];
}

/** Payments a second from the batcher to Redis and back, without HTTP, beside BullMQ's addBulk of 500. */
async function enqueue(): Promise<Result[]> {
  const redis = await startRedis();
  const producer = createProducerConnection({ url: redis.url, clusterNodes: [] });
  await firstConnection(producer);
  const enqueuer = createEnqueuer({
    redis: producer,
    queue: paymentQueue({ name: 'payments' }),
    maxSize: 1e9,
    serverCheck: { refusal: undefined },
  });
  const connection = new Redis(redis.url, { maxRetriesPerRequest: null });
  const queue = new Queue('bulk', { connection });
  await queue.waitUntilReady();
  const rate = new Map<string, number[]>();
  const bulk = async () => {
    for (let added = 0; added < REQUESTS; added += 500) {
      await queue.addBulk(
        Array.from({ length: 500 }, () => {
          const id = randomUUID();
          return { name: 'payment', data: { correlationId: id, amount: 19.9 }, opts: { ...JOB_OPTIONS, jobId: id } };
        }),
      );
    }
  };
  const batched = async () => {
    let left = REQUESTS;
    await Promise.all(
      Array.from({ length: 500 }, async () => {
        while (left > 0) {
          left -= 1;
          await enqueuer.enqueue(newJob());
        }
      }),
    );
  };
  for (let round = 0; round <= ROUNDS; round += 1) {
    for (const [name, run] of [
      ['bulk', bulk],
      ['batched', batched],
    ] as const) {
      const startedAt = performance.now();
      await run();
      if (round > 0) note(rate, name, REQUESTS / ((performance.now() - startedAt) / 1000));
    }
    await flush(redis.url);
  }
  producer.disconnect();
  await queue.close();
  connection.disconnect();
  await redis.dispose();
  const of = (name: string) => median(rate.get(name)!);
  return [
    {
      what: 'enqueue: payments a second, batcher to Redis and back, beside addBulk of 500',
      ours: `${of('batched').toFixed(0)}/s`,
      baseline: `${of('bulk').toFixed(0)}/s`,
      ratio: of('batched') / of('bulk'),
      budget: 0.9,
      atLeast: true,
    },
  ];
}

/** Accepting with a million payments queued, beside accepting into an empty queue. */
async function deep(): Promise<Result[]> {
  const empty = await startRedis();
  const full = await startRedis();
  const api = async (name: string, redisUrl: string) =>
    startService({
      name,
      script: 'src/main.ts',
      env: {
        APP_ROLE: 'api',
        LOG_LEVEL: 'info',
        NODE_ENV: 'production',
        HOST: '127.0.0.1',
        REDIS_URL: redisUrl,
        PAYMENT_QUEUE_MAX_SIZE: '50000000',
      },
      port: await freePort(),
      readyWhen: /listening/,
    });
  const services = [await api('empty', empty.url), await api('full', full.url)];
  const before = memoryMegabytes(full.pid);
  const apiBefore = memoryMegabytes(services[1]!.pid);
  const producer = createProducerConnection({ url: full.url, clusterNodes: [] });
  await firstConnection(producer);
  const enqueuer = createEnqueuer({
    redis: producer,
    queue: paymentQueue({ name: 'payments' }),
    maxSize: 1e9,
    serverCheck: { refusal: undefined },
  });
  for (let added = 0; added < DEEP; added += 5_000) {
    await Promise.all(Array.from({ length: 5_000 }, () => enqueuer.enqueue(newJob())));
  }
  producer.disconnect();
  const bytes = ((memoryMegabytes(full.pid) - before) * 1e6) / DEEP;

  const p99 = new Map<string, number[]>();
  for (let round = 0; round <= 2 * ROUNDS; round += 1) {
    for (const each of services) {
      // A rate that leaves the cores air: at saturation the p99 tells of the load generator.
      const result = await postMany({
        port: Number(new URL(each.url!).port),
        count: 4_000,
        connections: 8,
        body: payload,
      });
      expectAll(result, each.name);
      if (round > 0) note(p99, each.name, percentile(result.latenciesMs, 0.99));
    }
  }
  const apiMemory = memoryMegabytes(services[1]!.pid);
  for (const each of services) await each.stop();
  // What the p99 has left in the queue that was empty is enough for both workers to pay as many.
  const [workerOfFew, workerOfMany] = [await workerMemory(empty.url), await workerMemory(full.url)];
  await full.dispose();
  await empty.dispose();
  const of = (name: string) => median(p99.get(name)!);
  return [
    {
      what: `deep queue: accept p99 with ${DEEP.toLocaleString('en')} queued, beside an empty queue`,
      ours: `${of('full').toFixed(2)} ms (Redis ${bytes.toFixed(0)} bytes a payment; API ${apiBefore.toFixed(0)} → ${apiMemory.toFixed(0)} MB; worker ${workerOfMany.toFixed(0)} MB)`,
      baseline: `${of('empty').toFixed(2)} ms (worker ${workerOfFew.toFixed(0)} MB)`,
      ratio: of('full') / of('empty'),
      budget: 1.2,
    },
  ];
}

/** Of a worker that has paid some thousands of a queue, in MB. */
async function workerMemory(redisUrl: string): Promise<number> {
  const postgres = await startPostgres();
  await migrate(postgres.url);
  const gateway = await startGateway('gateway', await freePort(), 0.05);
  const worker = await startWorker({ redisUrl, databaseUrl: postgres.url, gatewayUrl: gateway.url! });
  await untilRecorded(postgres.url, DRAINED);
  const megabytes = memoryMegabytes(worker.pid);
  await worker.stop();
  await gateway.stop();
  await postgres.dispose();
  return megabytes;
}

/** The summary over ten million payments, beside one over a hundred thousand. */
async function summary(): Promise<Result[]> {
  const postgres = await startPostgres({ settings: { shared_buffers: '1GB' } });
  const tables = new Map<string, ReturnType<typeof createLedger>>();
  const dbs: { destroy(): Promise<void> }[] = [];
  const end = Date.parse('2026-06-01T00:00:00Z');
  for (const [name, rows] of [
    ['small', 100_000],
    ['big', LEDGER_ROWS],
  ] as const) {
    await sql(postgres.url, `CREATE DATABASE ${name}`);
    const url = postgres.url.replace(/postgres$/, name);
    await migrate(url);
    // 300 a second, as the challenge brings, backwards from the end.
    for (let start = 0; start < rows; start += 1_000_000) {
      await sql(
        url,
        `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
         SELECT gen_random_uuid(), CASE WHEN n % 5 = 0 THEN 'fallback' ELSE 'default' END, 1 + n % 100000,
                to_timestamp($1::double precision - n / 300.0)
         FROM generate_series($2::bigint, $3::bigint) AS n`,
        [end / 1000, start, Math.min(rows, start + 1_000_000) - 1],
      );
    }
    await sql(url, 'VACUUM ANALYZE');
    const db = createDb(loadConfig({ DATABASE_URL: url }).database);
    dbs.push(db);
    tables.set(name, createLedger(db));
  }
  const last = end - 1_234;
  const windows: [string, number | undefined][] = [
    ['10 s', 10_000],
    ['1 h', 3_600_000],
    ['all', undefined],
  ];
  const times = new Map<string, number[]>();
  for (let round = 0; round <= 10 * ROUNDS; round += 1) {
    for (const [name, table] of tables) {
      for (const [label, ms] of windows) {
        // A different millisecond every time, so that no two ends fall alike.
        const to = new Date(last - round * 1_017);
        const startedAt = performance.now();
        await table.summarise(ms === undefined ? {} : { from: new Date(to.getTime() - ms), to });
        if (round > 0) note(times, `${name} ${label}`, performance.now() - startedAt);
      }
    }
  }
  for (const db of dbs) await db.destroy();
  await postgres.dispose();
  const of = (key: string) => median(times.get(key)!);
  const count = LEDGER_ROWS.toLocaleString('en');
  return [
    ...windows.map(([label]) => ({
      what: `summary of ${label} over ${count} payments, beside 100,000`,
      ours: `${of(`big ${label}`).toFixed(2)} ms`,
      baseline: `${of(`small ${label}`).toFixed(2)} ms`,
      ratio: of(`big ${label}`) / of(`small ${label}`),
      budget: label === '1 h' ? 1.5 : undefined,
    })),
    {
      what: `summary over ${count} payments, the slowest of the windows, beside 20 ms`,
      ours: `${Math.max(...windows.map(([label]) => of(`big ${label}`))).toFixed(2)} ms`,
      baseline: '20 ms',
      ratio: Math.max(...windows.map(([label]) => of(`big ${label}`))) / 20,
      budget: 1,
    },
  ];
}

function newJob(): { id: string; data: string } {
  const id = randomUUID();
  return { id, data: `{"correlationId":"${id}","amount":19.9}` };
}

function note(map: Map<string, number[]>, name: string, value: number): void {
  map.set(name, [...(map.get(name) ?? []), value]);
}

function expectAll({ unexpected }: Round, name: string): void {
  if (unexpected > 0) throw new Error(`${name} gave ${unexpected} answers that were not expected`);
}

/** Empties Redis between rounds; the deep queue has a part of its own. */
async function flush(url: string): Promise<void> {
  const redis = new Redis(url);
  await redis.flushall();
  redis.disconnect();
}

const asked = process.argv.slice(2);
const results: Result[] = [];
console.log(`Node ${process.version}, ${cpus().length} × ${cpus()[0]!.model}, ${ROUNDS} rounds, medians\n`);
for (const [name, run] of Object.entries(parts)) {
  if (asked.length === 0 || asked.includes(name)) results.push(...(await run()));
}
console.log(showTable(results));
process.exit(results.every(isWithinBudget) ? 0 : 1);
