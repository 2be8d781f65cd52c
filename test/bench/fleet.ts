import { Redis } from 'ioredis';
import { cpuMicros } from '../../dev/local/cpu.ts';
import { freePort } from '../../dev/local/ports.ts';
import { startPostgres } from '../../dev/local/postgres.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { migrate, startGateway } from '../../dev/stack.ts';
import { median, type Result } from './measure.ts';
import { connectedEnqueuer, newJob, note, ROUNDS, startWorker, untilRecorded } from './stage.ts';

/** Workers and the concurrency of each. The same places in one worker and in eight, and eight times as many. */
const FLEETS = [
  { workers: 1, concurrency: 256 },
  { workers: 4, concurrency: 256 },
  { workers: 8, concurrency: 32 },
  { workers: 8, concurrency: 256 },
] as const;

type Fleet = (typeof FLEETS)[number];

/** Payments of a round. Several times the places of the largest fleet, or its end would count for too much. */
const PAYMENTS = 10_000;

/**
 * What a payment costs Redis when more workers take from one queue: its CPU, the scripts, and the removal from the list of
 * active jobs (LREM), which BullMQ searches. No budget: on few cores the workers take the time from each other.
 */
export async function fleet(): Promise<Result[]> {
  const redis = await startRedis({ args: ['--appendfsync', 'everysec'] });
  const postgres = await startPostgres();
  await migrate(postgres.url);
  const gateway = await startGateway('gateway', await freePort(), 0.05);
  const urls = { redisUrl: redis.url, databaseUrl: postgres.url, gatewayUrl: gateway.url! };
  const { producer, enqueuer } = await connectedEnqueuer(redis.url);
  const client = new Redis(redis.url);
  const values = new Map<string, number[]>();
  let enqueued = 0;

  async function measure(each: Fleet, isWarmUp: boolean): Promise<void> {
    await client.config('RESETSTAT');
    const [cpuBefore, startedAt] = [cpuMicros(redis.pid), performance.now()];
    enqueued += PAYMENTS;
    await Promise.all(Array.from({ length: PAYMENTS }, () => enqueuer.enqueue(newJob())));
    await untilRecorded(postgres.url, enqueued);
    if (isWarmUp) return;
    const stats = await client.info('commandstats');
    const [scripts] = statsOf(stats, 'evalsha');
    const [, removalMicros] = statsOf(stats, 'lrem');
    note(values, `${nameOf(each)} cpu`, (cpuMicros(redis.pid) - cpuBefore) / PAYMENTS);
    note(values, `${nameOf(each)} rate`, PAYMENTS / ((performance.now() - startedAt) / 1_000));
    note(values, `${nameOf(each)} scripts`, scripts / PAYMENTS);
    note(values, `${nameOf(each)} lrem`, removalMicros / PAYMENTS);
  }

  for (const each of FLEETS) {
    const workers = [];
    for (let n = 0; n < each.workers; n += 1) workers.push(await startWorker(urls, each.concurrency));
    for (let round = 0; round <= ROUNDS; round += 1) await measure(each, round === 0);
    for (const worker of workers) await worker.stop();
  }
  client.disconnect();
  producer.disconnect();
  await gateway.stop();
  await postgres.dispose();
  await redis.dispose();

  const of = (each: Fleet, what: string) => median(values.get(`${nameOf(each)} ${what}`)!);
  const show = (each: Fleet) =>
    `Redis ${of(each, 'cpu').toFixed(0)} µs, LREM ${of(each, 'lrem').toFixed(1)} µs, ${of(each, 'scripts').toFixed(2)} scripts, ${of(each, 'rate').toFixed(0)}/s`;
  const [first, ...others] = FLEETS;
  return others.map((each) => ({
    what: `fleet: ${nameOf(each)}, per payment, beside ${nameOf(first)} (the ratio: Redis CPU)`,
    ours: show(each),
    baseline: show(first),
    ratio: of(each, 'cpu') / of(first, 'cpu'),
    budget: undefined,
  }));
}

function nameOf({ workers, concurrency }: Fleet): string {
  return `${workers} × ${concurrency} places`;
}

/** Calls of a command, and the time in it in µs, from `INFO commandstats`. */
function statsOf(stats: string, command: string): readonly [calls: number, micros: number] {
  const match = new RegExp(`cmdstat_${command}:calls=(\\d+),usec=(\\d+)`).exec(stats);
  return [Number(match?.[1] ?? 0), Number(match?.[2] ?? 0)];
}
