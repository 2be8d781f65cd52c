import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import type { Redis } from 'ioredis';
import { startRedis } from '../../dev/local/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, type HttpResponse, http } from '../support/http-client.ts';
import { connectedApi, lookInto, NO_DATABASE } from '../support/queue.ts';
import { aPayment, eventually, testApi, testRedis } from '../support/relay.ts';

/** The README promises a response within a second, and within a few ms when the connection is refused. */
const HUNG_LIMIT_MS = 1_000;
const REFUSED_LIMIT_MS = 100;

/** A Redis of the test's own. */
async function ownRedis(args: readonly string[] = []) {
  const server = await startRedis({ args });
  atTestEnd(() => server.dispose());
  return server;
}

/** An API over that Redis, connected to it unless `absent`. */
async function api(redisUrl: string, absent?: 'absent') {
  const env = { ...NO_DATABASE, REDIS_URL: redisUrl };
  const { url, prefix, entries } = absent ? await testApi(env) : await connectedApi(env);
  const post = (payment = aPayment()) => exchange(`${url}/payments`, { body: JSON.stringify(payment) });
  return {
    url,
    prefix,
    entries,
    post,
    /** Resolves with the first payment that is accepted again. */
    postUntilAccepted: () =>
      eventually(async () => {
        const payment = aPayment();
        return (await post(payment)).status === 204 && payment;
      }),
  };
}

function expectUnavailable(answer: HttpResponse, limitMs: number): void {
  expect(answer.status).to.equal(503);
  expect(JSON.parse(answer.text)).to.deep.equal({ error: 'queue_unavailable' });
  expect(answer.headers['retry-after']).to.equal('1');
  expect(answer.elapsedMs).to.be.below(limitMs);
}

describe('POST /payments without Redis', () => {
  it('responds 503 in a few ms while Redis is down, and 204 by itself once it is back', async () => {
    const redis = await ownRedis();
    const { prefix, post, postUntilAccepted, entries } = await api(redis.url);
    const [before, during] = [aPayment(), aPayment()];
    expect((await post(before)).status).to.equal(204);
    await redis.stop();
    // The first of them may meet the connection as it breaks.
    for (let i = 0; i < 5; i += 1) expectUnavailable(await post(during), REFUSED_LIMIT_MS);
    const burst = await Promise.all(Array.from({ length: 100 }, () => post()));
    for (const answer of burst) expectUnavailable(answer, HUNG_LIMIT_MS);
    // Said when the first attempt to reconnect is refused, 50 ms on; a Redis that is back by then was not away.
    await eventually(() => entries.some(({ code }) => code === 'unreachable'));
    await redis.start();
    const accepted = await postUntilAccepted();
    const queue = await lookInto(prefix, redis.url);
    const waiting = await queue.waiting();
    expect(waiting).to.include.members([before.correlationId, accepted.correlationId]);
    expect(waiting).to.not.include(during.correlationId);
    expect(await queue.isStored(during.correlationId)).to.equal(false);
    expect(entries.filter(({ level }) => level === 'error')).to.deep.equal([]);
    const levelsOf = (wanted: string) => entries.filter(({ code }) => code === wanted).map(({ level }) => level);
    expect(levelsOf('unreachable')).to.deep.equal(['warn', 'info']);
    expect(levelsOf('queue_unavailable')).to.include('warn');
  });

  it('responds 503 in a few ms when Redis was never up, and 204 by itself once it is', async () => {
    const redis = await ownRedis();
    await redis.stop();
    const { url, prefix, post, postUntilAccepted } = await api(redis.url, 'absent');
    expectUnavailable(await post(), REFUSED_LIMIT_MS);
    await http(url).get('/health/live').expect(200);
    await redis.start();
    const { correlationId } = await postUntilAccepted();
    expect(await (await lookInto(prefix, redis.url)).waiting()).to.include(correlationId);
  });

  it('responds 503 within a second while Redis hangs, and 204 by itself once it goes on', async () => {
    const redis = await ownRedis();
    const { prefix, post, postUntilAccepted } = await api(redis.url);
    expect((await post()).status).to.equal(204);
    redis.signal('SIGSTOP');
    const payment = aPayment();
    expectUnavailable(await post(payment), HUNG_LIMIT_MS);
    expectUnavailable(await post(payment), HUNG_LIMIT_MS);
    redis.signal('SIGCONT');
    await postUntilAccepted();
    // It may have been stored after its 503; posting it again does no harm.
    expect((await post(payment)).status).to.equal(204);
    const waiting = await (await lookInto(prefix, redis.url)).waiting();
    expect(waiting.filter((id) => id === payment.correlationId)).to.have.length(1);
  });

  it('responds 503 within a second to each of 300 clients while Redis hangs', async () => {
    const redis = await ownRedis();
    const { post } = await api(redis.url);
    expect((await post()).status).to.equal(204);
    redis.signal('SIGSTOP');
    atTestEnd(() => redis.signal('SIGCONT'));
    for (const response of await Promise.all(Array.from({ length: 300 }, () => post()))) {
      expectUnavailable(response, HUNG_LIMIT_MS);
    }
  });

  it('never responds 204 to a payment that a killed Redis has lost', async () => {
    const redis = await ownRedis(['--appendfsync', 'always']);
    const { prefix, post, postUntilAccepted } = await api(redis.url);
    const accepted: string[] = [];
    let isOver = false;
    const client = async () => {
      while (!isOver) {
        const payment = aPayment();
        const { status } = await post(payment);
        if (status === 204) accepted.push(payment.correlationId);
        else expect(status).to.equal(503);
      }
    };
    const clients = Array.from({ length: 20 }, client);
    await eventually(() => accepted.length > 100);
    await redis.kill();
    await redis.start();
    await postUntilAccepted();
    isOver = true;
    await Promise.all(clients);
    const stored = new Set(await (await lookInto(prefix, redis.url)).waiting());
    expect(accepted.filter((id) => !stored.has(id))).to.deep.equal([]);
  });

  it('responds 503 while Redis is a replica, which cannot be written, and 204 once it is the master', async () => {
    const redis = await ownRedis();
    const { prefix, post, postUntilAccepted, entries } = await api(redis.url);
    expect((await post()).status).to.equal(204);
    const admin = await testRedis(redis.url);
    await admin.replicaof('127.0.0.1', 1);
    const queue = await lookInto(prefix, redis.url);
    for (let i = 0; i < 5; i += 1) {
      const payment = aPayment();
      expectUnavailable(await post(payment), REFUSED_LIMIT_MS);
      expect(await queue.isStored(payment.correlationId)).to.equal(false);
    }
    await admin.replicaof('NO', 'ONE');
    expect(await queue.isStored((await postUntilAccepted()).correlationId)).to.equal(true);
    expect(entries.find(({ level }) => level === 'warn')?.['cause']).to.match(/READONLY/);
  });

  /** @param breakIt makes Redis reply `cause` to every write; @returns what mends it */
  async function expectUnavailableWhile(
    cause: RegExp,
    breakIt: (admin: Redis) => Promise<() => Promise<unknown>>,
  ): Promise<void> {
    const redis = await ownRedis();
    const { url, prefix, post, postUntilAccepted, entries } = await api(redis.url);
    const queued = aPayment();
    expect((await post(queued)).status).to.equal(204);
    const queue = await lookInto(prefix, redis.url);
    const mend = await breakIt(await testRedis(redis.url));
    const payments = Array.from({ length: 5 }, () => aPayment());
    for (const payment of payments) expectUnavailable(await post(payment), REFUSED_LIMIT_MS);
    expect(await queue.waiting()).to.deep.equal([queued.correlationId]);
    for (const { correlationId } of payments) expect(await queue.isStored(correlationId)).to.equal(false);
    // A count needs no write.
    const { body } = await http(url).get('/health').expect(200);
    expect(body.queue.queue_size).to.equal(1);
    await mend();
    await postUntilAccepted();
    expect(await queue.waiting()).to.have.length(2);
    expect(entries.find(({ level }) => level === 'warn')?.['cause']).to.match(cause);
  }

  it('responds 503 while Redis is out of memory, and 204 afterwards', () =>
    expectUnavailableWhile(/OOM/, async (admin) => {
      await admin.config('SET', 'maxmemory', '1');
      return () => admin.config('SET', 'maxmemory', '0');
    }));

  it('responds 503 while Redis cannot write to its disk, and 204 afterwards', () =>
    expectUnavailableWhile(/MISCONF/, async (admin) => {
      // After a snapshot that cannot be moved to its place Redis rejects writes, as long as snapshots are configured.
      const [, dir] = (await admin.config('GET', 'dir')) as [string, string];
      const inTheWay = join(dir, 'dump.rdb');
      mkdirSync(inTheWay);
      await admin.config('SET', 'save', '3600 1000000');
      await admin.bgsave();
      await eventually(async () => (await admin.info('persistence')).includes('rdb_last_bgsave_status:err'));
      return async () => {
        rmdirSync(inTheWay);
        await admin.bgsave();
        await eventually(async () => (await admin.info('persistence')).includes('rdb_last_bgsave_status:ok'));
      };
    }));

  it('responds 503 when Redis requires a password and none is set', async () => {
    const redis = await ownRedis(['--requirepass', 'secret']);
    const { post } = await api(redis.url, 'absent');
    for (let i = 0; i < 5; i += 1) expectUnavailable(await post(), REFUSED_LIMIT_MS);
  });

  it('goes on after its connection was cut', async () => {
    const redis = await ownRedis();
    const { post, postUntilAccepted, prefix } = await api(redis.url);
    expect((await post()).status).to.equal(204);
    const admin = await testRedis(redis.url);
    await admin.client('KILL', 'TYPE', 'NORMAL', 'SKIPME', 'YES');
    await postUntilAccepted();
    await admin.script('FLUSH');
    const { correlationId } = await postUntilAccepted();
    expect(await (await lookInto(prefix, redis.url)).isStored(correlationId)).to.equal(true);
  });
});

describe('GET /health without Redis', () => {
  it('responds 503 queue_unavailable while Redis is down, and 200 by itself once it is back', async () => {
    const redis = await ownRedis();
    const { url } = await api(redis.url);
    await http(url).get('/health').expect(200);
    await redis.stop();
    const { body } = await http(url).get('/health').expect(503);
    expect(body).to.deep.equal({ status: 'unavailable', error: 'queue_unavailable' });
    await redis.start();
    await eventually(async () => (await http(url).get('/health')).status === 200);
  });

  it('responds 503 within a second while Redis hangs, and so does /health/ready', async () => {
    const redis = await ownRedis();
    const { url } = await api(redis.url);
    await http(url).get('/health').expect(200);
    redis.signal('SIGSTOP');
    const [health, ready] = await Promise.all(
      ['/health', '/health/ready'].map((path) => exchange(url + path, { method: 'GET' })),
    );
    expect(health!.status).to.equal(503);
    expect(JSON.parse(health!.text)).to.deep.equal({ status: 'unavailable', error: 'queue_unavailable' });
    expect(ready!.status).to.equal(503);
    expect(JSON.parse(ready!.text).checks).to.include({ redis: false });
    expect(health!.elapsedMs).to.be.below(HUNG_LIMIT_MS);
    expect(ready!.elapsedMs).to.be.below(HUNG_LIMIT_MS);
    redis.signal('SIGCONT');
    await eventually(async () => (await http(url).get('/health')).status === 200);
  });
});

describe('GET /health/ready without Redis', () => {
  it('responds 503 while Redis is down, and 200 by itself once it is back', async () => {
    const redis = await ownRedis();
    const { url } = await testApi({ REDIS_URL: redis.url });
    const isReady = () => eventually(async () => (await http(url).get('/health/ready')).status === 200);
    await isReady();
    await redis.stop();
    const { body } = await http(url).get('/health/ready').expect(503);
    expect(body).to.deep.equal({ status: 'unavailable', checks: { redis: false, postgres: true, accepting: true } });
    await redis.start();
    await isReady();
  });
});
