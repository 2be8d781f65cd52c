import { expect } from 'chai';
import { eventually } from '../support/relay.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS, type StackOptions, sends, startTestStack, type TestProcess } from '../support/stack.ts';

const SHUTDOWN_TIMEOUT_MS = 5_000;

/** Ends the process as a supervisor does. @returns how long that took, in ms */
async function terminate(service: TestProcess): Promise<number> {
  const startedAt = performance.now();
  expect(await service.stop(), service.log.slice(-5).join('\n')).to.equal(0);
  return performance.now() - startedAt;
}

/** A worker with payments in flight and more in the queue. */
async function startBusyStack(options: Pick<StackOptions, 'own' | 'through'> = {}) {
  const stack = await startTestStack({
    ...options,
    env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '8', SHUTDOWN_TIMEOUT_MS: String(SHUTDOWN_TIMEOUT_MS) },
  });
  stack.primary.set({ delayMs: 400 });
  const ids = await stack.postMany(30);
  await stack.primary.waitFor(({ requests }) => requests.total > 8 && requests.inFlight === 8, PATIENCE_MS);
  return { ...stack, ids, worker: stack.workers[0]! };
}

describe('a shutdown', function () {
  this.timeout(3 * PATIENCE_MS);

  it('lets a busy worker record its payments in flight, and nothing is sent twice (row 12)', async () => {
    const { primary, worker, ids, recorded, startWorker, settled } = await startBusyStack();
    expect(await terminate(worker)).to.be.below(SHUTDOWN_TIMEOUT_MS);
    expect(primary.requests.inFlight).to.equal(0);
    expect(primary.payments.size).to.be.within(9, ids.length - 1);
    expect((await recorded()).primary.size).to.equal(primary.payments.size);
    await startWorker();
    await settled();
    expect(new Set(sends(primary, ids))).to.deep.equal(new Set([1]));
  });

  async function stopBusyApi({ redisDelayMs }: { redisDelayMs: number }): Promise<void> {
    const { apis, proxies, redis, queueKey, postMany, startApi, startWorker, accepted, settled } = await startTestStack(
      {
        workers: 0,
        env: { SHUTDOWN_TIMEOUT_MS: String(SHUTDOWN_TIMEOUT_MS) },
        through: ['redis'],
      },
    );
    // fetch keeps these connections for the posts. A connection that the API has not accepted yet would be refused.
    await Promise.all(Array.from({ length: 50 }, async () => (await fetch(`${apis[0]!.url}/health/live`)).text()));
    await proxies.redis.set({ kind: 'delay', ms: redisDelayMs });
    const posts = postMany(50);
    // The first of them are in Redis, and the reply is still on its way.
    await eventually(async () => (await redis.llen(queueKey('wait'))) > 0, PATIENCE_MS);
    expect(accepted.size).to.equal(0);
    const elapsedMs = await terminate(apis[0]!);
    await posts;
    expect(accepted.size).to.equal(50);
    expect(elapsedMs).to.be.below(SHUTDOWN_TIMEOUT_MS);
    await proxies.redis.set({ kind: 'none' });
    await startApi();
    await startWorker();
    await settled();
  }

  it('lets a busy API respond to every request in flight (row 12)', () => stopBusyApi({ redisDelayMs: 60 }));

  it('lets a busy API respond to every request in flight and exit with 0, though Redis is slow (row 12)', () =>
    stopBusyApi({ redisDelayMs: 150 }));
});

describe('a shutdown of a busy worker', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide({
    'whose Redis is down exits in time with 0, and the payments in flight are recorded (row 12)': async () => {
      const { primary, redisServer, worker, ids, recorded, startWorker, settled } = await startBusyStack({
        own: ['redis'],
      });
      await redisServer.kill();
      expect(await terminate(worker)).to.be.below(SHUTDOWN_TIMEOUT_MS);
      expect((await recorded()).primary.size).to.equal(primary.payments.size);
      await redisServer.start();
      await startWorker();
      await settled();
      expect(new Set(sends(primary, ids))).to.deep.equal(new Set([1]));
    },

    'whose Redis hangs exits in time with 0, and the payments in flight are recorded (row 12)': async () => {
      const { primary, redisServer, worker, ids, recorded, startWorker, settled } = await startBusyStack({
        own: ['redis'],
      });
      redisServer.signal('SIGSTOP');
      expect(await terminate(worker)).to.be.below(SHUTDOWN_TIMEOUT_MS);
      expect((await recorded()).primary.size).to.equal(primary.payments.size);
      redisServer.signal('SIGCONT');
      await startWorker();
      await settled();
      expect(new Set(sends(primary, ids))).to.deep.equal(new Set([1]));
    },

    'whose PostgreSQL is down exits in time with 0, and the next worker records what it paid (row 12)': async () => {
      const { primary, postgresServer, worker, ids, startWorker, settled } = await startBusyStack({
        own: ['postgres'],
      });
      await postgresServer.kill();
      expect(await terminate(worker)).to.be.below(SHUTDOWN_TIMEOUT_MS);
      const paid = primary.payments.size;
      expect(paid).to.be.below(ids.length);
      await postgresServer.start();
      await startWorker();
      expect((await settled()).primary.size).to.equal(ids.length);
    },

    'whose PostgreSQL is unreachable exits in time with 0, and the next worker records what it paid (row 12)':
      async () => {
        const { proxies, worker, ids, startWorker, settled } = await startBusyStack({ through: ['postgres'] });
        await proxies.postgres.set({ kind: 'black_hole' });
        expect(await terminate(worker)).to.be.below(SHUTDOWN_TIMEOUT_MS);
        await proxies.postgres.set({ kind: 'none' });
        await startWorker();
        expect((await settled()).primary.size).to.equal(ids.length);
      },
  });
});
