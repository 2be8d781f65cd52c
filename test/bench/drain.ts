import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { cpuMicros } from '../../dev/local/cpu.ts';
import { freePort } from '../../dev/local/ports.ts';
import { startPostgres } from '../../dev/local/postgres.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { migrate, startGateway } from '../../dev/stack.ts';
import { median, type Result } from './measure.ts';
import { CONCURRENCY, connectedEnqueuer, DRAINED, newJob, note, ROUNDS, startWorker, untilRecorded } from './stage.ts';

/** The default of a machine with two cores. */
const SMALL_CONCURRENCY = 4;
/** Payments a second that such a worker must reach, although Redis and PostgreSQL wait for the disk. */
const SMALL_RATE = 600;

/**
 * The worker's CPU per payment, recording included, beside a bare got loop that makes the same POSTs. Then the payments a
 * second of a worker with few places. Redis and PostgreSQL wait for the disk, as shipped.
 */
export async function drain(): Promise<Result[]> {
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

  const { producer, enqueuer } = await connectedEnqueuer(redis.url);
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
