import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import { QueueUnavailableError } from '../../src/errors.ts';
import { createQueueWatch } from '../../src/queue/queue-state.ts';
import { createProducerConnection, createWorkerConnection, firstConnection } from '../../src/queue/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { bullQueue, bullWorker, lookInto } from '../support/queue.ts';
import { freshPrefix, sharedRedis } from '../support/services.ts';

async function stage() {
  const prefix = freshPrefix();
  const { url } = await sharedRedis();
  const redis = createWorkerConnection({ url, clusterNodes: [] });
  atTestEnd(() => redis.disconnect());
  const inside = await lookInto(prefix);
  const [seconds] = await inside.redis.time();
  return {
    ...inside,
    prefix,
    nowMs: Number(seconds) * 1_000,
    watch: createQueueWatch({ redis, queue: { name: 'payments', prefix } }),
    queue: await bullQueue(prefix),
  };
}

const MINUTE_MS = 60_000;

/** Of an age in minutes, as the test's own time is not exact. */
const minutes = (ms: number) => Math.round(ms / MINUTE_MS);

describe('queue state', () => {
  it('of an empty queue is all zero', async () => {
    const { watch } = await stage();
    const state = await watch.read();
    expect(state).to.deep.include({ size: 0, waiting: 0, delayed: 0, inFlight: 0, isPaused: false, oldestMs: 0 });
    expect(state.unresolved).to.deep.equal({
      primary: { count: 0, oldestMs: 0 },
      fallback: { count: 0, oldestMs: 0 },
    });
    expect(state).to.deep.include({ heartbeats: [], heartbeatFault: undefined });
  });

  it('counts payments by state, and knows the age of the oldest in whichever state it is', async () => {
    const { watch, queue, prefix, nowMs } = await stage();
    const add = (ageMinutes: number, delay = 0) =>
      queue.add('payment', {}, { timestamp: nowMs - ageMinutes * MINUTE_MS, delay });
    await add(1);
    await add(2);
    expect(minutes((await watch.read()).oldestMs)).to.equal(2);
    await add(3, 10 * MINUTE_MS);
    expect(minutes((await watch.read()).oldestMs)).to.equal(3);
    const worker = await bullWorker(prefix);
    const job = await queue.add('payment', {}, { timestamp: nowMs - 4 * MINUTE_MS, lifo: true });
    expect((await worker.getNextJob('token'))!.id).to.equal(job.id);
    await queue.pause();
    const state = await watch.read();
    expect(minutes(state.oldestMs)).to.equal(4);
    expect(state).to.include({ size: 3, waiting: 2, delayed: 1, inFlight: 1, isPaused: true });
  });

  it('counts unresolved payments by gateway, and their age since they were noted', async () => {
    const { watch, queue, redis, key, nowMs } = await stage();
    const job = await queue.add('payment', {}, { timestamp: nowMs - 9 * MINUTE_MS });
    await redis.zadd(key('unresolved'), nowMs - 5 * MINUTE_MS, 'without-a-job');
    await redis.zadd(key('unresolved'), nowMs - 3 * MINUTE_MS, job.id!);
    await redis.zadd(key('unresolved-fallback'), nowMs - 7 * MINUTE_MS, job.id!);
    const { unresolved } = await watch.read();
    expect(unresolved.primary.count).to.equal(2);
    expect(minutes(unresolved.primary.oldestMs)).to.equal(3);
    expect(unresolved.fallback.count).to.equal(1);
    expect(minutes(unresolved.fallback.oldestMs)).to.equal(7);
  });

  it('has the memory of a server with a limit, also while it is out of memory', async () => {
    const server = await startRedis({ args: ['--maxmemory', '500kb'] });
    atTestEnd(() => server.dispose());
    const redis = createProducerConnection({ url: server.url, clusterNodes: [] });
    redis.on('error', () => {});
    atTestEnd(() => redis.disconnect());
    await firstConnection(redis);
    const watch = createQueueWatch({ redis, queue: { name: 'payments', prefix: '{p}' } });
    const { memory } = await watch.read();
    expect(memory!.maxBytes).to.equal(500 * 1024);
    expect(memory!.usedBytes).to.be.above(memory!.maxBytes);
    await redis.config('SET', 'maxmemory', '0');
    expect((await watch.read()).memory).to.equal(undefined);
    await server.stop();
    expect(await watch.read().catch((error: unknown) => error)).to.be.instanceOf(QueueUnavailableError);
  });
});
