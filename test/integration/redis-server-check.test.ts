import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, http } from '../support/http-client.ts';
import { lookInto, NO_DATABASE } from '../support/queue.ts';
import { aPayment, eventually, type TestEnv, testApi, testGateway, testRedis, testWorker } from '../support/relay.ts';

/** A Redis of the test's own. */
async function ownRedis(args: readonly string[] = []) {
  const server = await startRedis({ args });
  atTestEnd(() => server.dispose());
  return server;
}

async function apiOver(redisUrl: string, env: TestEnv = {}) {
  const api = await testApi({ ...NO_DATABASE, REDIS_URL: redisUrl, ...env });
  const post = (payment = aPayment()) => exchange(`${api.url}/payments`, { body: JSON.stringify(payment) });
  const isReady = async () => (await http(api.url).get('/health/ready')).status === 200;
  return {
    ...api,
    post,
    isReady,
    codes: () => api.entries.filter(({ code }) => code !== undefined).map(({ code }) => code),
    async expectNotReady() {
      for (let i = 0; i < 3; i += 1) {
        const { status, text, headers } = await post();
        expect([status, JSON.parse(text)]).to.deep.equal([503, { error: 'queue_unavailable' }]);
        expect(headers['retry-after']).to.equal('1');
      }
      expect(await isReady()).to.equal(false);
    },
    becomesReady: () => eventually(async () => (await isReady()) && (await post()).status === 204),
  };
}

describe('a Redis database that the server does not have', () => {
  it('makes a node not ready, which logs it once and never writes to database 0', async () => {
    const redis = await ownRedis();
    const api = await apiOver(`${redis.url}/99`);
    await api.expectNotReady();
    expect(await (await testRedis(redis.url)).dbsize()).to.equal(0);
    expect(api.codes().filter((code) => code === 'wrong_database')).to.have.length(1);
  });

  it('is used as soon as the server has it', async () => {
    const redis = await ownRedis();
    const { url, port } = redis;
    const api = await apiOver(`${url}/99`);
    await api.expectNotReady();
    await redis.stop();
    const larger = await startRedis({ args: ['--port', String(port), '--databases', '100'] });
    atTestEnd(() => larger.dispose());
    await api.becomesReady();
    expect(await (await testRedis(`${url}/99`)).dbsize()).to.be.above(0);
    expect(await (await testRedis(url)).dbsize()).to.equal(0);
  });

  it('keeps a worker from taking the payments of database 0', async () => {
    const redis = await ownRedis();
    const api = await apiOver(redis.url);
    const payment = aPayment();
    expect((await api.post(payment)).status).to.equal(204);
    const gateway = await testGateway();
    const env = { GATEWAY_PRIMARY_URL: gateway.url, REDIS_URL: `${redis.url}/99` };
    const { entries } = await testWorker(env, api.prefix);
    await eventually(() => entries.some(({ code }) => code === 'wrong_database'));
    const queue = await lookInto(api.prefix, redis.url);
    expect(await queue.waiting()).to.deep.equal([payment.correlationId]);
    // A worker's first command to the queue creates this key.
    expect(await queue.keys()).to.not.include('stalled-check');
    // Now a worker of the right database.
    await testWorker({ ...env, REDIS_URL: redis.url }, api.prefix);
    await eventually(() => gateway.payments.has(payment.correlationId));
  });
});

describe('an eviction policy other than noeviction', () => {
  it('makes a node not ready until it is corrected', async () => {
    const redis = await ownRedis(['--maxmemory-policy', 'allkeys-lru']);
    const api = await apiOver(redis.url);
    await api.expectNotReady();
    expect(api.codes().filter((code) => code === 'eviction_policy')).to.have.length(1);
    expect(await (await lookInto(api.prefix, redis.url)).waiting()).to.deep.equal([]);
    await (await testRedis(redis.url)).config('SET', 'maxmemory-policy', 'noeviction');
    await api.becomesReady();
  });

  it('is noticed at a new connection', async () => {
    const redis = await ownRedis();
    const api = await apiOver(redis.url);
    await api.becomesReady();
    const admin = await testRedis(redis.url);
    await admin.config('SET', 'maxmemory-policy', 'volatile-lru');
    await admin.client('KILL', 'TYPE', 'NORMAL', 'SKIPME', 'YES');
    await eventually(async () => !(await api.isReady()));
    await api.expectNotReady();
  });

  it('keeps a worker from taking payments until it is corrected', async () => {
    const redis = await ownRedis();
    const api = await apiOver(redis.url);
    const payment = aPayment();
    expect((await api.post(payment)).status).to.equal(204);
    const admin = await testRedis(redis.url);
    await admin.config('SET', 'maxmemory-policy', 'allkeys-lru');
    const gateway = await testGateway();
    const { entries } = await testWorker({ GATEWAY_PRIMARY_URL: gateway.url, REDIS_URL: redis.url }, api.prefix);
    await eventually(() => entries.some(({ code }) => code === 'eviction_policy'));
    expect(gateway.payments.size).to.equal(0);
    await admin.config('SET', 'maxmemory-policy', 'noeviction');
    await eventually(() => gateway.payments.has(payment.correlationId));
  });
});

describe('DURABILITY', () => {
  const everysec = ['--appendfsync', 'everysec'];

  it('set to disk makes a node with appendfsync everysec not ready until that is corrected', async () => {
    const redis = await ownRedis(everysec);
    const api = await apiOver(redis.url, { DURABILITY: 'disk' });
    await api.expectNotReady();
    expect(api.codes().filter((code) => code === 'not_durable')).to.have.length(1);
    await (await testRedis(redis.url)).config('SET', 'appendfsync', 'always');
    await api.becomesReady();
  });

  it('set to disk makes a node without an append-only file not ready', async () => {
    const redis = await ownRedis(['--appendonly', 'no']);
    await (await apiOver(redis.url, { DURABILITY: 'disk' })).expectNotReady();
  });

  it('set to memory accepts appendfsync everysec without a warning', async () => {
    const redis = await ownRedis(everysec);
    const api = await apiOver(redis.url, { DURABILITY: 'memory' });
    await api.becomesReady();
    expect(api.entries.filter(({ level }) => level !== 'info')).to.deep.equal([]);
  });

  it('not set accepts appendfsync everysec with one warning', async () => {
    const redis = await ownRedis(everysec);
    const api = await apiOver(redis.url, { DURABILITY: '' });
    await api.becomesReady();
    const admin = await testRedis(redis.url);
    await admin.client('KILL', 'TYPE', 'NORMAL', 'SKIPME', 'YES');
    await api.becomesReady();
    const warnings = api.entries.filter(({ code }) => code === 'not_durable');
    expect(warnings.map(({ level }) => level)).to.deep.equal(['warn']);
  });
});

describe('a key of the queue that another program has created', () => {
  it('makes a node not ready before half a payment is written, until the key is removed', async () => {
    const redis = await ownRedis();
    const admin = await testRedis(redis.url);
    const prefix = '{payrelay-foreign}';
    await admin.set(`${prefix}:payments:events`, 'not a stream');
    const api = await testApi({ ...NO_DATABASE, REDIS_URL: redis.url }, prefix);
    const post = () => exchange(`${api.url}/payments`, { body: JSON.stringify(payment) });
    const payment = aPayment();
    expect((await post()).status).to.equal(503);
    expect((await http(api.url).get('/health/ready')).status).to.equal(503);
    expect(api.entries.map(({ code }) => code)).to.include('wrong_type');
    await admin.del(`${prefix}:payments:events`);
    await eventually(async () => (await post()).status === 204);
    expect(await (await lookInto(prefix, redis.url)).waiting()).to.deep.equal([payment.correlationId]);
  });

  it('leaves no half of a payment behind when it appears later', async () => {
    const redis = await ownRedis();
    const api = await apiOver(redis.url);
    await api.becomesReady();
    const queue = await lookInto(api.prefix, redis.url);
    await queue.redis.del(queue.key('events'));
    await queue.redis.set(queue.key('events'), 'not a stream');
    const payment = aPayment();
    expect((await api.post(payment)).status).to.equal(503);
    expect(await queue.isStored(payment.correlationId)).to.equal(false);
    await queue.redis.del(queue.key('events'));
    expect((await api.post(payment)).status).to.equal(204);
    expect(await queue.waiting()).to.include(payment.correlationId);
  });
});
