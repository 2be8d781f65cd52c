import { createLoad, percentile } from '../../dev/load.ts';
import { freePort } from '../../dev/local/ports.ts';
import { startPostgres } from '../../dev/local/postgres.ts';
import type { ManagedServer } from '../../dev/local/processes.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { type ServiceProcess, startService } from '../../dev/local/service.ts';
import { migrate, startGateway } from '../../dev/stack.ts';
import { sql } from '../support/services.ts';
import { median, postMany, type Result } from './measure.ts';
import { expectAll, flush, note, payload, ROUNDS, untilRecorded } from './stage.ts';

const DURABILITIES = ['memory', 'disk', 'replica'] as const;

/** A steady rate that two cores carry easily. */
const STEADY_RATE = 150;
const STEADY_SECONDS = 4;

const POSTS = 6_000;
const CONNECTIONS = 100;

/** One durability with servers of its own. All of them run, and one at a time is measured. */
interface Stand {
  readonly durability: (typeof DURABILITIES)[number];
  readonly redis: readonly ManagedServer[];
  readonly postgres: ManagedServer;
  readonly api: ServiceProcess;
  readonly env: Readonly<Record<string, string>>;
}

/**
 * What each `DURABILITY` costs: the latency of accepting at a steady rate, the payments a second that one API node accepts at
 * full speed, and the payments a second that one worker pays and records. No budgets: the disk decides.
 */
export async function durability(): Promise<Result[]> {
  const gateway = await startGateway('gateway', await freePort(), 0.05);
  const stands: Stand[] = [];
  for (const each of DURABILITIES) stands.push(await startStand(each, gateway.url!));
  const values = new Map<string, number[]>();
  for (let round = 0; round <= ROUNDS; round += 1) {
    for (const stand of stands) {
      const measured = await measure(stand);
      // The first round warms up.
      if (round === 0) continue;
      for (const [what, value] of Object.entries(measured)) note(values, `${stand.durability} ${what}`, value);
    }
  }
  for (const { api, redis, postgres } of stands) {
    await api.stop();
    for (const server of [...redis, postgres]) await server.dispose();
  }
  await gateway.stop();
  const of = (name: string, what: string) => median(values.get(`${name} ${what}`)!);
  const show = (name: string) =>
    `p50 ${of(name, 'p50').toFixed(2)}, p99 ${of(name, 'p99').toFixed(2)} ms, ${of(name, 'accepted').toFixed(0)}/s accepted, ${of(name, 'paid').toFixed(0)}/s paid`;
  return DURABILITIES.slice(1).map((name) => ({
    what: `durability: ${name}, beside memory; latency at ${STEADY_RATE}/s, rates at full speed (the ratio: accepted)`,
    ours: show(name),
    baseline: show('memory'),
    ratio: of(name, 'accepted') / of('memory', 'accepted'),
    budget: undefined,
  }));
}

async function startStand(name: Stand['durability'], gatewayUrl: string): Promise<Stand> {
  const primary = await startRedis({ args: ['--appendfsync', name === 'memory' ? 'everysec' : 'always'] });
  const replica = () =>
    startRedis({ args: ['--appendfsync', 'always', '--replicaof', '127.0.0.1', `${primary.port}`] });
  const replicas = name === 'replica' ? [await replica(), await replica()] : [];
  const postgres = await startPostgres();
  await migrate(postgres.url);
  const env = {
    REDIS_URL: primary.url,
    DATABASE_URL: postgres.url,
    DURABILITY: name,
    NODE_ENV: 'production',
    LOG_LEVEL: 'error',
    PAYMENT_QUEUE_MAX_SIZE: 'infinity',
    PAYMENT_QUEUE_MAX_CONCURRENCY: '64',
    GATEWAY_PRIMARY_URL: gatewayUrl,
    GATEWAY_FALLBACK_URL: gatewayUrl,
  };
  const api = await startService({
    name: `API (${name})`,
    script: 'src/main.ts',
    env: { ...env, APP_ROLE: 'api', HOST: '127.0.0.1' },
    port: await freePort(),
  });
  return { durability: name, redis: [primary, ...replicas], postgres, api, env };
}

async function measure({ durability: name, redis, postgres, api, env }: Stand) {
  const { latenciesMs } = await postSteadily(api.url!);
  await flush(redis[0]!.url);
  const result = await postMany({
    port: Number(new URL(api.url!).port),
    count: POSTS,
    connections: CONNECTIONS,
    body: payload,
  });
  expectAll(result, name);
  const recorded = await countRecorded(postgres.url);
  const worker = await startService({ name: 'worker', script: 'src/main.ts', env: { ...env, APP_ROLE: 'worker' } });
  // Its start is not counted.
  await untilRecorded(postgres.url, recorded + 1);
  const [startedAt, first] = [performance.now(), await countRecorded(postgres.url)];
  await untilRecorded(postgres.url, recorded + POSTS);
  const seconds = (performance.now() - startedAt) / 1_000;
  await worker.stop();
  return {
    p50: percentile(latenciesMs, 0.5),
    p99: percentile(latenciesMs, 0.99),
    accepted: POSTS / result.seconds,
    paid: (recorded + POSTS - first) / seconds,
  };
}

/** @returns the latencies in ms */
async function postSteadily(url: string): Promise<{ readonly latenciesMs: readonly number[] }> {
  const load = createLoad({ urls: [url], amount: 19.9 });
  const posts: Promise<unknown>[] = [];
  const startedAt = performance.now();
  for (let at = startedAt; at < startedAt + STEADY_SECONDS * 1_000; at = performance.now()) {
    const due = ((at - startedAt) / 1_000) * STEADY_RATE;
    while (posts.length < due) posts.push(load.post());
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  await Promise.all(posts);
  load.close();
  if (load.report.accepted.size < posts.length) throw new Error('some posts were not accepted');
  return load.report;
}

async function countRecorded(databaseUrl: string): Promise<number> {
  const [row] = await sql<{ count: string }>(databaseUrl, 'SELECT count(*) FROM payments');
  return Number(row!.count);
}
