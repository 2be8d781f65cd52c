import { percentile } from '../../dev/load.ts';
import { freePort } from '../../dev/local/ports.ts';
import { startPostgres } from '../../dev/local/postgres.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { startService } from '../../dev/local/service.ts';
import { migrate, startGateway } from '../../dev/stack.ts';
import { median, memoryMegabytes, postMany, type Result } from './measure.ts';
import {
  connectedEnqueuer,
  DRAINED,
  expectAll,
  newJob,
  note,
  payload,
  ROUNDS,
  startWorker,
  untilRecorded,
} from './stage.ts';

const DEEP = Number(process.env['BENCH_DEEP'] ?? 1_000_000);

/** The p99 of accepting with a million payments queued, beside accepting into an empty queue. */
export async function deepQueue(): Promise<Result[]> {
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
    });
  const services = [await api('empty', empty.url), await api('full', full.url)];
  const before = memoryMegabytes(full.pid);
  const apiBefore = memoryMegabytes(services[1]!.pid);
  const { producer, enqueuer } = await connectedEnqueuer(full.url);
  for (let added = 0; added < DEEP; added += 5_000) {
    await Promise.all(Array.from({ length: 5_000 }, () => enqueuer.enqueue(newJob())));
  }
  producer.disconnect();
  const bytes = ((memoryMegabytes(full.pid) - before) * 1e6) / DEEP;

  const p99 = new Map<string, number[]>();
  for (let round = 0; round <= 2 * ROUNDS; round += 1) {
    for (const each of services) {
      // A rate that leaves the cores idle time: at saturation the p99 would be that of the load generator.
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
  // The rounds above have left more payments in the queue that was empty than a worker pays here.
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

/** The memory of a worker that has paid some thousands of payments from this queue, in MB. */
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
