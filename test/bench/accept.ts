import { percentile } from '../../dev/load.ts';
import { cpuMicros } from '../../dev/local/cpu.ts';
import { freePort } from '../../dev/local/ports.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { startService } from '../../dev/local/service.ts';
import { median, postMany, type Result } from './measure.ts';
import { expectAll, flush, note, payload, REQUESTS, ROUNDS } from './stage.ts';

const CONNECTIONS = 100;

/** The API's CPU for each accepted payment. */
export async function accept(): Promise<Result[]> {
  const redis = await startRedis();
  const env = { REDIS_URL: redis.url, NODE_ENV: 'production' };
  const service = async (name: string, script: string, extra: Record<string, string> = {}) =>
    startService({ name, script, env: { ...env, ...extra }, port: await freePort() });
  const ours = await service('Payrelay', 'src/main.ts', {
    APP_ROLE: 'api',
    LOG_LEVEL: 'info',
    HOST: '127.0.0.1',
    PAYMENT_QUEUE_MAX_SIZE: '50000000',
  });
  const baseline = await service('Express', 'test/bench/express-baseline.ts');
  const naive = await service('naive', 'rinha/naive/naive.ts', { APP_ROLE: 'api', HOST: '127.0.0.1' });
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
      what: 'accept: API CPU per payment, beside Express + express.json responding 204',
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
