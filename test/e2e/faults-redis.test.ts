import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Redis } from 'ioredis';
import { atTestEnd } from '../support/cleanup.ts';
import { aPayment, eventually } from '../support/relay.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS, startTestStack, type TestStack } from '../support/stack.ts';

/** From the recovery of Redis to the next new payment at the primary. */
const RESUMED_MS = 2_000;

/** How long it takes from now until a payment is accepted and paid. */
async function timeToResume({ post, primary }: Pick<TestStack, 'post' | 'primary'>): Promise<number> {
  const startedAt = performance.now();
  const { correlationId } = await eventually(async () => {
    const payment = aPayment();
    return (await post(payment)) === 204 && payment;
  }, PATIENCE_MS);
  await primary.waitFor(({ payments }) => payments.has(correlationId), PATIENCE_MS);
  return performance.now() - startedAt;
}

/** How many scripts have ended with an error. */
async function failedScripts(redis: Redis): Promise<number> {
  const stats = await redis.info('commandstats');
  const counts = [...stats.matchAll(/cmdstat_eval(?:sha)?:.*failed_calls=(\d+)/g)];
  return counts.reduce((sum, [, count]) => sum + Number(count), 0);
}

/** A proxy that can forget its connections: nothing passes any more, without an error. */
async function forgetfulNetwork(targetPort: number) {
  const pairs: (readonly [Socket, Socket])[] = [];
  const listener = createServer((client) => {
    const server = connect(targetPort, '127.0.0.1');
    pairs.push([client, server]);
    for (const socket of [client, server]) socket.on('error', () => {});
    client.pipe(server).pipe(client);
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  atTestEnd(async () => {
    for (const socket of pairs.flat()) socket.destroy();
    await new Promise((resolve) => listener.close(resolve));
  });
  return {
    port: (listener.address() as { port: number }).port,
    forget() {
      for (const [client, server] of pairs) {
        client.unpipe(server);
        server.unpipe(client);
        server.destroy();
        client.resume();
      }
    },
  };
}

describe('faults of Redis', function () {
  this.timeout(3 * PATIENCE_MS);

  it('restarted under load: every accepted payment survives, and the worker goes on within 2 s (row 13)', async () => {
    const stack = await startTestStack({ own: ['redis'] });
    const { primary, fallback, redisServer, unknown, settled } = stack;
    const stopLoad = stack.startLoad();
    await primary.waitFor(({ payments }) => payments.size >= 20, PATIENCE_MS);
    await redisServer.stop();
    await eventually(() => unknown.size > 0, PATIENCE_MS);
    await redisServer.start();
    expect(await timeToResume(stack)).to.be.below(RESUMED_MS);
    await stopLoad();
    await settled();
    expect(fallback.requests.total).to.equal(0);
  });

  it('down when API and worker start: they serve within 2 s of its start (row 14)', async () => {
    const stack = await startTestStack({ own: ['redis'], apis: 0, workers: 0 });
    await stack.redisServer.stop();
    await Promise.all([stack.startApi(), stack.startWorker()]);
    expect(await stack.post()).to.equal(503);
    await stack.redisServer.start();
    expect(await timeToResume(stack)).to.be.below(RESUMED_MS);
    await stack.settled();
  });

  it('hung for 2 s under load: posts get 503 in time, and nothing is lost or paid twice (row 15)', async () => {
    const stack = await startTestStack({ own: ['redis'] });
    const { primary, fallback, redisServer, unknown, settled } = stack;
    primary.set({ delayMs: 20 });
    const stopLoad = stack.startLoad();
    await primary.waitFor(({ payments }) => payments.size >= 20, PATIENCE_MS);
    redisServer.signal('SIGSTOP');
    const hungAt = performance.now();
    while (performance.now() - hungAt < 2_000) {
      const postedAt = performance.now();
      expect(await stack.post()).to.equal(503);
      expect(performance.now() - postedAt).to.be.below(1_000);
    }
    expect(unknown.size).to.be.greaterThan(0);
    redisServer.signal('SIGCONT');
    primary.set({ delayMs: 0 });
    expect(await timeToResume(stack)).to.be.below(RESUMED_MS);
    await stopLoad();
    await settled();
    expect(fallback.requests.total).to.equal(0);
  });
});

describe('faults of Redis that take their time', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide({
    // The slowest scenario starts first.
    'silent on all connections of a worker: the worker goes on over new ones within 20 s (row 15)': async () => {
      const { primary, redisServer, startWorker, post, postMany, settled } = await startTestStack({
        own: ['redis'],
        workers: 0,
      });
      const network = await forgetfulNetwork(redisServer.port);
      const redisUrl = new URL(redisServer.url);
      redisUrl.port = String(network.port);
      await startWorker({ REDIS_URL: redisUrl.href });
      await post();
      await settled();
      network.forget();
      await postMany(10);
      // The worker replaces a connection after 15 s of silence (redis.ts).
      await primary.waitFor(({ payments }) => payments.size === 11, 20_000);
      await settled();
    },

    // The worker cannot write down how the attempt ended. The payment must count as unresolved all the same.
    'read-only for a moment, as in a failover: an unresolved payment stays with the primary (row 13)': async () => {
      const { primary, fallback, proxies, redis, workers, post, recorded, settled } = await startTestStack({
        own: ['redis'],
        through: ['redis', 'primary'],
        env: { FALLBACK_ON: 'not_sent', GATEWAY_RECEIVE_TIMEOUT_MS: '300' },
      });
      primary.set({ delayMs: 1_500 });
      await post();
      await primary.waitFor(({ requests }) => requests.total === 1, PATIENCE_MS);
      await redis.replicaof('127.0.0.1', 1);
      // Slow enough for the failover to end before the worker is connected again.
      await proxies.redis.set({ kind: 'delay', ms: 300 });
      await workers[0]!.logged({ code: 'ETIMEDOUT' });
      await eventually(async () => (await failedScripts(redis)) > 0, PATIENCE_MS);
      await redis.replicaof('NO', 'ONE');
      await proxies.primary.set({ kind: 'refuse' });
      await proxies.redis.set({ kind: 'none' });
      const isRefusedOrPaid = async () =>
        workers[0]!.hasLogged({ code: 'ECONNREFUSED' }) || (await recorded()).primary.size === 1;
      await eventually(isRefusedOrPaid, PATIENCE_MS);
      await primary.waitFor(({ payments }) => payments.size === 1, PATIENCE_MS);
      await proxies.primary.set({ kind: 'none' });
      primary.set({ delayMs: 0 });
      await settled();
      expect(fallback.requests.total).to.equal(0);
    },

    'killed under load and down for 6.5 s: every accepted payment survives, and the worker goes on within 2 s (rows 14, 16)':
      async () => {
        const stack = await startTestStack({ own: ['redis'], env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '2' } });
        const { primary, fallback, redisServer, accepted, settled } = stack;
        primary.set({ delayMs: 50 });
        const stopLoad = stack.startLoad();
        await eventually(() => accepted.size >= 200, PATIENCE_MS);
        // Most accepted payments are only in Redis.
        expect(primary.payments.size).to.be.below(accepted.size / 2);
        await redisServer.kill();
        await stopLoad();
        await sleep(6_500);
        await redisServer.start();
        const before = primary.requests.total;
        const startedAt = performance.now();
        await primary.waitFor(({ requests }) => requests.total > before, PATIENCE_MS);
        expect(performance.now() - startedAt).to.be.below(RESUMED_MS);
        primary.set({ delayMs: 0 });
        await settled();
        expect(fallback.requests.total).to.equal(0);
      },

    'hung for longer than locks live, with payments in flight: one charge, one row (row 15)': async () => {
      const { primary, fallback, redisServer, postMany, settled } = await startTestStack({
        own: ['redis'],
        env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '8', FALLBACK_ON: 'not_sent', FALLBACK_AFTER_MS: '1' },
      });
      primary.set({ delayMs: 300 });
      await postMany(40);
      await primary.waitFor(({ requests }) => requests.inFlight === 8, PATIENCE_MS);
      redisServer.signal('SIGSTOP');
      await sleep(6_000);
      redisServer.signal('SIGCONT');
      expect((await settled()).primary.size).to.equal(40);
      expect(fallback.requests.total).to.equal(0);
    },

    'out of memory under load: every accepted payment is stored, and paid afterwards (row 17)': async () => {
      const stack = await startTestStack({ own: ['redis'], env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '4' } });
      const { primary, redis, workers, accepted, unknown, settled } = stack;
      primary.set({ delayMs: 50 });
      const stopLoad = stack.startLoad();
      await eventually(() => accepted.size >= 200, PATIENCE_MS);
      await redis.config('SET', 'maxmemory', '1mb');
      await eventually(() => unknown.size >= 50, PATIENCE_MS);
      await workers[0]!.logged({ code: 'out_of_memory' });
      await stopLoad();
      await redis.config('SET', 'maxmemory', '0');
      primary.set({ delayMs: 0 });
      await settled();
    },

    'resets of its connections while payments are made: each payment is paid once (row 23)': async () => {
      const stack = await startTestStack({ through: ['redis'], env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '8' } });
      const { primary, fallback, proxies, postMany, settled } = stack;
      primary.set({ delayMs: 5 });
      const ids = await postMany(200);
      for (let resets = 1; resets <= 20; resets += 1) {
        const next = Math.min(primary.payments.size + 5, ids.length);
        await primary.waitFor(({ payments }) => payments.size >= next, PATIENCE_MS);
        if (resets % 2 === 0) {
          proxies.redis.resetAll();
        } else {
          // Redis runs the command and the reply is lost, so the worker sends the command again.
          await proxies.redis.set({ kind: 'reset_replies' });
          await sleep(20);
          await proxies.redis.set({ kind: 'none' });
        }
      }
      const books = await settled();
      expect(books.primary.size).to.equal(stack.accepted.size);
      expect(fallback.requests.total).to.equal(0);
    },
  });
});
