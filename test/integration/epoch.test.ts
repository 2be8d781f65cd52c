import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import type { Config } from '../../src/config.ts';
import { epochKey } from '../../src/queue/bullmq-layout.ts';
import { epochFor } from '../../src/queue/epoch.ts';
import { createWaitingJobs } from '../../src/queue/waiting-jobs.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { recordingLogger } from '../support/logger.ts';
import { lookInto } from '../support/queue.ts';
import { aPayment, eventually, postPayment, testApi, testGateway, testRedis, testWorker } from '../support/relay.ts';
import { ownRedis } from '../support/replica.ts';
import { freshPrefix } from '../support/services.ts';

/**
 * An API and workers over a Redis that the test may restart. The primary gateway refuses connections, so a payment that may use
 * the fallback does.
 */
async function stage(durability: 'memory' | 'disk') {
  const redis = await ownRedis();
  const prefix = freshPrefix();
  const port = await freePort();
  const fallback = await testGateway();
  const api = await testApi({ REDIS_URL: redis.url, DURABILITY: durability }, prefix);
  const env = {
    REDIS_URL: redis.url,
    DATABASE_URL: api.config.database.url,
    DURABILITY: durability,
    GATEWAY_PRIMARY_URL: `http://127.0.0.1:${port}`,
    GATEWAY_FALLBACK_URL: fallback.url,
    FALLBACK_ON: 'not_sent',
  };
  const looking = await testRedis(redis.url);
  const key = epochKey({ name: 'payments', prefix });
  return {
    prefix,
    redisUrl: redis.url,
    fallback,
    /** A worker, which with `memory` knows since when this start of Redis has the queue. */
    async work() {
      const worker = await testWorker(env, prefix);
      if (durability === 'memory') {
        const run = /run_id:(\w+)/.exec(await looking.info('server'))![1]!;
        await eventually(async () => (await looking.hget(key, 'server'))?.startsWith(run));
      }
      return worker;
    },
    async post() {
      const payment = aPayment();
      await eventually(async () => (await postPayment(api.url, payment)).status === 204);
      return payment.correlationId;
    },
    async restart() {
      await redis.stop();
      await redis.start();
    },
    async startPrimary() {
      const primary = await testGateway();
      await primary.close();
      await primary.listen(port);
      return primary;
    },
  };
}

describe('a restart of Redis', () => {
  it('leaves a payment free that is older than the first worker', async () => {
    const { post, work, fallback } = await stage('memory');
    const id = await post();
    await work();
    await eventually(() => fallback.payments.has(id));
  }).timeout(20_000);

  it('with DURABILITY=memory keeps from the fallback what was queued before, and nothing that is posted after', async () => {
    const { post, work, restart, fallback, startPrimary } = await stage('memory');
    const first = await work();
    const unbroken = await post();
    await eventually(() => fallback.payments.has(unbroken));
    await first.close();
    const before = await post();
    await restart();
    await work();
    const after = await post();
    await eventually(() => fallback.payments.has(after));
    const primary = await startPrimary();
    await eventually(() => primary.payments.has(before), 20_000);
    expect(fallback.requests.receivedAt(before)).to.deep.equal([]);
  }).timeout(40_000);

  it('with DURABILITY=memory leaves a payment free that waited for a worker while its server ran on', async () => {
    const { post, work, fallback } = await stage('memory');
    const first = await work();
    const known = await post();
    await eventually(() => fallback.payments.has(known));
    await first.close();
    const waiting = await post();
    await work();
    await eventually(() => fallback.payments.has(waiting));
  }).timeout(20_000);

  it('with DURABILITY=disk takes nothing back, so what was queued before may go to the fallback', async () => {
    const { post, work, restart, fallback } = await stage('disk');
    const before = await post();
    await restart();
    await work();
    await eventually(() => fallback.payments.has(before));
  }).timeout(20_000);

  it('leaves a payment free that an operator has released since', async () => {
    const { post, work, restart, fallback, prefix, redisUrl } = await stage('memory');
    await (await work()).close();
    const id = await post();
    await restart();
    const first = await work();
    const { redis, key } = await lookInto(prefix, redisUrl);
    const unresolved = key('unresolved');
    await eventually(async () => (await redis.zscore(unresolved, id)) !== null);
    await first.close();
    const waitingJobs = createWaitingJobs({ redis, queue: { name: 'payments', prefix } });
    const attempts = Number(await redis.hget(key(id), 'ats'));
    const release = { gateway: 'primary', by: 'ada', delayMs: 0 } as const;
    expect(await waitingJobs.release({ id, attempts }, release)).to.equal('done');
    await work();
    await eventually(() => fallback.payments.has(id));
  }).timeout(30_000);
});

/** The epoch of a worker over a Redis of the test's own, whose key the test may write before. */
async function epochOver(url: string, prefix: string, redisUrl = url) {
  const redis = await testRedis(redisUrl);
  const queue = { name: 'payments', prefix };
  const config = {
    redis: { url, clusterNodes: [] },
    queue: { ...queue, maxSize: 1, shards: 1, durability: 'memory' },
  } satisfies Pick<Config, 'redis' | 'queue'>;
  const { logger } = recordingLogger();
  const epoch = epochFor(config, { redis, queue, writer: undefined, maxPending: 1, logger })!;
  atTestEnd(() => epoch.close());
  return { redis, queue, epoch };
}

describe('the epoch', () => {
  const run = { lockKey: 'none', token: 'none' };

  it('begins at the last acceptance when the clock of the server before was ahead', async () => {
    const { url } = await ownRedis();
    const prefix = freshPrefix();
    const latest = Date.now() + 60_000;
    const admin = await testRedis(url);
    await admin.hset(epochKey({ name: 'payments', prefix }), { server: 'another', since: 1, latest });
    const { epoch } = await epochOver(url, prefix);
    expect(await epoch.confirm(run)).to.equal(latest);
  });

  it('stays the same for every worker of one server, and is another at each connection to one that does not say who it is', async () => {
    const { url } = await ownRedis();
    const prefix = freshPrefix();
    const start = async (redisUrl = url) => (await epochOver(url, prefix, redisUrl)).epoch.confirm(run);
    const since = await start();
    expect(await start()).to.equal(since);
    const admin = await testRedis(url);
    await admin.call('ACL', 'SETUSER', 'payrelay', 'on', '>password', '~*', '&*', '+@all', '-info');
    const userUrl = url.replace('//', '//payrelay:password@');
    const unnamed = await start(userUrl);
    expect(unnamed).to.be.above(since!);
    await eventually(async () => (await start(userUrl))! > unnamed!);
  });
});
