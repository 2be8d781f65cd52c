import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import type { Problem } from '../../src/operations/relay-health.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { http } from '../support/http-client.ts';
import { bullQueue, lookInto, NO_DATABASE } from '../support/queue.ts';
import { aPayment, eventually, postPayment, type TestEnv, testApi, testRedis, testWorker } from '../support/relay.ts';
import { sharedPostgres } from '../support/services.ts';

/** Nothing listens on this port. */
const NO_GATEWAY = { GATEWAY_PRIMARY_URL: 'http://127.0.0.1:1', GATEWAY_FALLBACK_URL: 'http://127.0.0.1:1' };

async function ownRedis(args: readonly string[] = []) {
  const server = await startRedis({ args });
  atTestEnd(() => server.dispose());
  return { url: server.url, admin: await testRedis(server.url) };
}

/** An API in this process, and workers as the test starts them. */
async function relay(env: TestEnv = {}, prefix?: string) {
  const { url, api, ...node } = await testApi(env, prefix);
  const { DATABASE_URL = node.config.database.url } = env;
  async function problems(): Promise<readonly Problem[]> {
    const { body } = await http(url).get('/health').expect(200);
    expect(body.status).to.equal(body.problems ? 'degraded' : 'ok');
    return body.problems ?? [];
  }
  return {
    url,
    api,
    prefix: node.prefix,
    databaseUrl: DATABASE_URL,
    work: (own: TestEnv = {}) => testWorker({ ...env, ...NO_GATEWAY, DATABASE_URL, ...own }, node.prefix),
    problems,
    codes: async () => (await problems()).map(({ code }) => code),
    /** Resolves when these are the problems. */
    shows: (...codes: string[]) =>
      eventually(async () => {
        const found = await problems();
        return `${found.map(({ code }) => code)}` === `${codes}` && found;
      }),
    post: (payment = aPayment()) => postPayment(url, payment),
  };
}

describe('the problems of GET /health', () => {
  it('have no_worker until a worker starts, and again at once when it has ended in order', async () => {
    const { work, shows } = await relay();
    const [problem] = await shows('no_worker');
    expect(Date.now() - Date.parse(problem!.since)).to.be.within(0, 10_000);
    const worker = await work();
    await shows();
    await worker.close();
    await shows('no_worker');
  });

  it('have queue_paused while an operator has paused the queue', async () => {
    const { work, shows, prefix } = await relay();
    await work();
    await shows();
    const queue = await bullQueue(prefix);
    const before = Date.now();
    await queue.pause();
    const [problem] = await shows('queue_paused');
    expect(Date.parse(problem!.since)).to.be.within(before, Date.now());
    await queue.resume();
    await shows();
  });

  it('have queue_full at the cap', async () => {
    const { post, shows, codes } = await relay({ PAYMENT_QUEUE_MAX_SIZE: '2' });
    await post();
    expect(await codes()).to.deep.equal(['no_worker']);
    await post();
    const [problem] = await shows('queue_full', 'no_worker');
    expect(problem!.cause).to.match(/^2 .*PAYMENT_QUEUE_MAX_SIZE/);
  });

  it('have primary_down and fallback_down with the cause that the worker saw', async () => {
    const { work, post, shows } = await relay({ FALLBACK_ON: 'not_sent' });
    const before = Date.now();
    await work();
    for (let i = 0; i < 8; i += 1) await post();
    const problems = await shows('primary_down', 'fallback_down');
    for (const { cause, since } of problems) {
      expect(cause).to.include('ECONNREFUSED');
      expect(cause).to.not.include('workers');
      expect(Date.parse(since)).to.be.within(before, Date.now());
    }
  });

  it('have ledger_unavailable while PostgreSQL is down', async () => {
    const { shows } = await relay(NO_DATABASE);
    const [, problem] = await shows('no_worker', 'ledger_unavailable');
    expect(problem!.cause).to.include('ECONNREFUSED');
  });

  it('have ledger_unavailable with the command that helps while the schema is missing', async () => {
    const { shows } = await relay({ DATABASE_URL: (await sharedPostgres()).url });
    const [, problem] = await shows('no_worker', 'ledger_unavailable');
    expect(problem!.cause).to.include('npm run db:migrate');
  });

  it('have ledger_unavailable when only the worker cannot reach PostgreSQL', async () => {
    const { work, post, shows } = await relay();
    await work(NO_DATABASE);
    await shows();
    await post();
    const [problem] = await shows('ledger_unavailable');
    expect(problem!.cause).to.include('ECONNREFUSED');
  });

  it('have redis_memory and not no_worker while Redis is out of memory, and none afterwards', async () => {
    const { url, admin } = await ownRedis();
    const { work, shows } = await relay({ REDIS_URL: url });
    await work();
    await shows();
    await admin.config('SET', 'maxmemory', '1mb');
    await shows('redis_memory');
    // Longer than a heartbeat lives.
    await eventually(async () => (await admin.keys('*:heartbeat:*')).length === 0);
    await shows('redis_memory');
    await admin.config('SET', 'maxmemory', '0');
    await shows();
  });

  it('have redis_memory from the share on at which payments are no longer accepted', async () => {
    const { url, admin } = await ownRedis();
    const { shows, work } = await relay({ REDIS_URL: url });
    await work();
    await shows();
    const used = Number(/^used_memory:(\d+)/m.exec(await admin.info('memory'))![1]);
    await admin.config('SET', 'maxmemory', String(Math.round(used / 0.95)));
    await shows('redis_memory');
    await admin.config('SET', 'maxmemory', String(2 * used));
    await shows();
  });

  it('have eviction_policy', async () => {
    const { url } = await ownRedis(['--maxmemory-policy', 'allkeys-lru']);
    const { shows } = await relay({ REDIS_URL: url });
    const [, problem] = await shows('no_worker', 'eviction_policy');
    expect(problem!.cause).to.include('allkeys-lru');
  });

  it('have durability while Redis keeps less than the disk that is expected, and payments are accepted', async () => {
    const { url } = await ownRedis(['--appendfsync', 'everysec']);
    const { post, shows } = await relay({ REDIS_URL: url, DURABILITY: '' });
    await shows('no_worker', 'durability');
    expect((await post()).status).to.equal(204);
  });

  it('have missing_right with the command, also when only the worker lacks it', async () => {
    const { url, admin } = await ownRedis();
    await admin.call('ACL', 'SETUSER', 'few', 'on', '>password', '~*', '&*', '+@all', '-xtrim');
    const { shows, work } = await relay({ REDIS_URL: url });
    await work({ REDIS_URL: url.replace('//', '//few:password@') });
    const [problem] = await shows('missing_right');
    expect(problem!.cause).to.include('XTRIM');
    await admin.call('ACL', 'SETUSER', 'few', '-xadd');
    const api = await relay({ REDIS_URL: url.replace('//', '//few:password@') });
    await api.shows('no_worker', 'missing_right');
  });

  it('have missing_right and not no_worker when only the heartbeats are forbidden, and payments are accepted', async () => {
    const { url, admin } = await ownRedis();
    const prefix = '{payrelay}';
    await admin.call(
      'ACL',
      'SETUSER',
      'narrow',
      'on',
      '>password',
      `~${prefix}:payments:*`,
      `~${prefix}:shards`,
      '&*',
      '+@all',
    );
    const { post, shows, work } = await relay({ REDIS_URL: url.replace('//', '//narrow:password@') }, prefix);
    await work();
    expect((await post()).status).to.equal(204);
    await shows('missing_right');
  });

  it('have wrong_type while another program has a key of ours', async () => {
    const { url, admin } = await ownRedis();
    await admin.set('{payrelay}:payments:unresolved', 'foreign');
    const { shows } = await relay({ REDIS_URL: url }, '{payrelay}');
    const [, problem] = await shows('no_worker', 'wrong_type');
    expect(problem!.cause).to.include('unresolved');
  });

  it('have queue_unavailable and not no_worker while Redis has too few replicas', async () => {
    const { url, admin } = await ownRedis();
    const { work, shows } = await relay({ REDIS_URL: url });
    await work();
    await shows();
    await admin.config('SET', 'min-replicas-to-write', '1');
    await eventually(async () => (await admin.keys('*:heartbeat:*')).length === 0);
    const [problem] = await shows('queue_unavailable');
    expect(problem!.cause).to.include('min-replicas-to-write');
    await admin.config('SET', 'min-replicas-to-write', '0');
    await shows();
  });

  it('keep their since when every node is replaced, one after the other', async () => {
    const first = await relay();
    const queue = await bullQueue(first.prefix);
    const { redis } = await lookInto(first.prefix);
    await first.work();
    await queue.pause();
    const [before] = await first.shows('queue_paused');
    // The second node learns it from the first one's next heartbeat.
    const isWritten = async () => {
      const ids = await redis.zrange(`${first.prefix}:heartbeats`, 0, -1);
      const texts = await redis.mget(ids.map((id) => `${first.prefix}:heartbeat:${id}`));
      return texts.some((text) => text?.includes(before!.since));
    };
    await eventually(isWritten);
    const heartbeats = async () => redis.zcard(`${first.prefix}:heartbeats`);
    const second = await relay({ DATABASE_URL: first.databaseUrl }, first.prefix);
    await eventually(async () => (await heartbeats()) === 3);
    await second.shows('queue_paused');
    await first.api.close(performance.now() + 5_000);
    await eventually(async () => (await heartbeats()) === 2);
    expect(await second.problems()).to.deep.equal([before]);
    // A problem that has ended has no past.
    await queue.resume();
    await second.shows();
    await eventually(async () => !(await isWritten()));
    await queue.pause();
    const [again] = await second.shows('queue_paused');
    expect(Date.parse(again!.since)).to.be.above(Date.parse(before!.since));
  });
});

describe('heartbeats', () => {
  it('are removed when their process ends in order, and stay at a purge', async () => {
    const { url, work, prefix, shows, api } = await relay({ ALLOW_PURGE: 'true' });
    const { redis, key } = await lookInto(prefix);
    const worker = await work();
    await shows();
    const ids = await redis.zrange(`${prefix}:heartbeats`, 0, -1);
    expect(ids).to.have.length(2);
    for (const id of ids) expect(await redis.pttl(`${prefix}:heartbeat:${id}`)).to.be.within(1, 5_000);
    for (const type of ['unresolved', 'unresolved-fallback']) await redis.zadd(key(type), 1, aPayment().correlationId);
    await http(url).post('/purge-payments').expect(200);
    expect(await redis.exists(key('unresolved'), key('unresolved-fallback'))).to.equal(0);
    expect(await redis.zcard(`${prefix}:heartbeats`)).to.equal(2);
    await worker.close();
    await api.close(performance.now() + 5_000);
    expect(await redis.keys(`${prefix}:heartbeat*`)).to.deep.equal([]);
  });

  it('of processes that ended without a word leave the list', async () => {
    const { prefix, shows } = await relay();
    const { redis } = await lookInto(prefix);
    await shows('no_worker');
    await redis.zadd(`${prefix}:heartbeats`, 1, 'dead');
    await eventually(async () => (await redis.zscore(`${prefix}:heartbeats`, 'dead')) === null);
    expect(await redis.zcard(`${prefix}:heartbeats`)).to.equal(1);
  });

  it('that are foreign or of another version neither count nor disturb', async () => {
    const { prefix, work, shows, url } = await relay();
    const { redis } = await lookInto(prefix);
    await work();
    await shows();
    const foreign = { text: 'not JSON', list: '[]', nothing: '{}', newer: '{"id":"x","role":"worker","worker":7}' };
    for (const [id, text] of Object.entries(foreign)) {
      await redis.set(`${prefix}:heartbeat:${id}`, text);
      await redis.zadd(`${prefix}:heartbeats`, Date.now() + 60_000, id);
    }
    const { body } = await http(url).get('/health').expect(200);
    expect(body).to.include({ status: 'ok', workers: 1 });
  });
});
