import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Redis } from 'ioredis';
import { startRedis } from '../../dev/local/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, http } from '../support/http-client.ts';
import { lookInto, NO_DATABASE } from '../support/queue.ts';
import { aPayment, eventually, testApi, testConfig, testGateway, testRedis, testWorker } from '../support/relay.ts';
import { sql } from '../support/services.ts';

/** The keys that the documented line grants. */
const PREFIX = '{payrelay}';

/** The rights that docs/operating.md calls enough, as arguments of ACL SETUSER. */
function documentedRights(): string[] {
  const page = readFileSync(new URL('../../docs/operating.md', import.meta.url), 'utf8');
  return /^ACL SETUSER payrelay (.*)$/m.exec(page)![1]!.split(' ');
}

/** A Redis of the test's own, with a user who has these rights. */
async function redisWithUser(rights = documentedRights()) {
  const server = await startRedis();
  atTestEnd(() => server.dispose());
  const admin = await testRedis(server.url);
  await admin.call('ACL', 'SETUSER', 'payrelay', ...rights);
  const userUrl = server.url.replace('//', '//payrelay:password@');
  return {
    url: server.url,
    userUrl,
    admin,
    /** Changes the user's rights. Connections stay open, and have the new rights. */
    setRights: (...changed: string[]) => admin.call('ACL', 'SETUSER', 'payrelay', ...changed),
  };
}

/** An API without a ledger and a worker with one, both as that user. */
async function apiAndWorker(userUrl: string) {
  const gateway = await testGateway();
  const { database } = await testConfig();
  const api = await testApi({ ...NO_DATABASE, REDIS_URL: userUrl }, PREFIX);
  const worker = await testWorker(
    { REDIS_URL: userUrl, DATABASE_URL: database.url, GATEWAY_PRIMARY_URL: gateway.url },
    PREFIX,
  );
  const post = (payment = aPayment()) => exchange(`${api.url}/payments`, { body: JSON.stringify(payment) });
  return {
    api,
    worker,
    gateway,
    post,
    countRows: async (correlationId: string) =>
      (await sql(database.url, 'SELECT 1 FROM payments WHERE correlation_id = $1', [correlationId])).length,
  };
}

const notable = (entries: readonly { level: string; code?: unknown }[]) =>
  entries.filter(({ level }) => level !== 'info' && level !== 'debug');

/** Commands that clients have sent, without those that scripts call. */
async function countCommands(redis: Redis): Promise<number> {
  const calls = (await redis.info('commandstats')).matchAll(
    /cmdstat_(?:eval|evalsha|bzpopmin|multi|info):calls=(\d+)/g,
  );
  return [...calls].reduce((sum, [, count]) => sum + Number(count), 0);
}

/** Long enough for a worker that does not pause to send thousands of commands and lines. */
const WINDOW_MS = 2_000;

async function expectCalm(admin: Redis, entries: readonly { level: string }[]): Promise<void> {
  const [commandsBefore, linesBefore] = [await countCommands(admin), entries.length];
  await sleep(WINDOW_MS);
  expect((await countCommands(admin)) - commandsBefore).to.be.below(60);
  expect(entries.length - linesBefore).to.be.below(5);
}

describe('a Redis user with the documented rights', () => {
  it('accepts and pays payments, and warns only of settings that it may not read', async () => {
    const redis = await redisWithUser();
    const { post, api, worker, gateway, countRows } = await apiAndWorker(redis.userUrl);
    const payment = aPayment();
    expect((await post(payment)).status).to.equal(204);
    await eventually(async () => (await countRows(payment.correlationId)) === 1);
    expect(gateway.payments.size).to.equal(1);
    await eventually(
      async () => (await (await lookInto(PREFIX, redis.url)).redis.llen(`${PREFIX}:payments:active`)) === 0,
    );
    expect((await http(api.url).get('/health/ready')).status).to.equal(200);
    const codes = notable([...api.entries, ...worker.entries]).map(({ code }) => code);
    expect(codes).to.deep.equal(['unreadable', 'unreadable']);
  });

  it('empties the queue', async () => {
    const redis = await redisWithUser();
    const api = await testApi({ REDIS_URL: redis.userUrl, ALLOW_PURGE: 'true' }, PREFIX);
    expect((await exchange(`${api.url}/payments`, { body: JSON.stringify(aPayment()) })).status).to.equal(204);
    await http(api.url).post('/purge-payments').expect(200);
    expect(await (await lookInto(PREFIX, redis.url)).waiting()).to.deep.equal([]);
  });

  it('pays without INFO, too', async () => {
    const redis = await redisWithUser([...documentedRights(), '-info']);
    const { post, countRows } = await apiAndWorker(redis.userUrl);
    const payment = aPayment();
    expect((await post(payment)).status).to.equal(204);
    await eventually(async () => (await countRows(payment.correlationId)) === 1);
  });

  it('accepts nothing while one command of a script is not allowed, and names the command', async () => {
    const redis = await redisWithUser([...documentedRights(), '-xadd']);
    const { post, api, worker } = await apiAndWorker(redis.userUrl);
    const payment = aPayment();
    expect((await post(payment)).status).to.equal(503);
    expect((await http(api.url).get('/health/ready')).status).to.equal(503);
    for (const entries of [api.entries, worker.entries]) {
      const lacking = await eventually(() => entries.find(({ code }) => code === 'missing_right'));
      expect(lacking['cause']).to.include('XADD');
    }
    expect(await (await lookInto(PREFIX, redis.url)).isStored(payment.correlationId)).to.equal(false);
    await redis.setRights('+xadd');
    await eventually(async () => (await post(payment)).status === 204);
  });

  it('without scripts neither spins nor fills the log, and serves routes that need no Redis', async () => {
    const redis = await redisWithUser([...documentedRights(), '-eval', '-evalsha']);
    const { post, api, worker } = await apiAndWorker(redis.userUrl);
    expect((await post()).status).to.equal(503);
    await http(api.url).get('/health/live').expect(200);
    await eventually(() => worker.entries.some(({ code }) => code === 'missing_right'));
    await expectCalm(redis.admin, worker.entries);
  });
});

describe('a worker whose Redis replies errors', () => {
  const wait = `${PREFIX}:payments:wait`;
  const faults = {
    oom: {
      begin: [['config', 'set', 'maxmemory', '1']],
      end: [['config', 'set', 'maxmemory', '0']],
    },
    noreplicas: {
      begin: [['config', 'set', 'min-replicas-to-write', '1']],
      end: [['config', 'set', 'min-replicas-to-write', '0']],
    },
    noscripts: {
      begin: [['acl', 'setuser', 'payrelay', '-eval', '-evalsha']],
      end: [['acl', 'setuser', 'payrelay', '+eval', '+evalsha']],
    },
    wrongtype: {
      begin: [
        ['rename', wait, `${PREFIX}:kept`],
        ['set', wait, 'not a list'],
      ],
      end: [['rename', `${PREFIX}:kept`, wait]],
    },
  } as const;

  /** Breaks Redis while payments wait, expects few commands and log lines, mends it, and expects one charge each. */
  async function expectPause({ begin, end }: (typeof faults)[keyof typeof faults]): Promise<void> {
    const redis = await redisWithUser();
    const { post, worker, gateway, countRows } = await apiAndWorker(redis.userUrl);
    await eventually(async () => (await post()).status === 204);
    await eventually(() => gateway.payments.size === 1);
    await redis.admin.hset(`${PREFIX}:payments:meta`, 'paused', '1');
    const payments = Array.from({ length: 20 }, () => aPayment());
    for (const payment of payments) expect((await post(payment)).status).to.equal(204);
    const linesBefore = notable(worker.entries).length;
    const broken = await redis.admin
      .multi([['hdel', `${PREFIX}:payments:meta`, 'paused'], ...begin.map((command) => [...command])])
      .exec();
    expect(broken!.filter(([error]) => error !== null)).to.deep.equal([]);
    await eventually(() => notable(worker.entries).length > linesBefore, 12_000);
    await expectCalm(redis.admin, worker.entries);
    for (const [command, ...args] of end) await redis.admin.call(command, ...args);
    for (const { correlationId } of payments) {
      await eventually(async () => (await countRows(correlationId)) === 1, 15_000);
    }
    expect(gateway.payments.size).to.equal(21);
  }

  it('pauses while Redis is out of memory, and pays the waiting payments afterwards', () =>
    expectPause(faults.oom)).timeout(40_000);
  it('pauses while Redis has too few replicas, and pays the waiting payments afterwards', () =>
    expectPause(faults.noreplicas)).timeout(40_000);
  it('pauses while scripts are not allowed, and pays the waiting payments afterwards', () =>
    expectPause(faults.noscripts)).timeout(40_000);
  it('pauses while a key has a foreign type, and pays the waiting payments afterwards', () =>
    expectPause(faults.wrongtype)).timeout(40_000);

  it('ends a payment once Redis accepts its end, with one charge and one row', async () => {
    const redis = await redisWithUser();
    const { post, worker, gateway, countRows } = await apiAndWorker(redis.userUrl);
    await eventually(() => worker.entries.some(({ code }) => code === 'unreadable'));
    const payment = aPayment();
    gateway.set({ delayMs: 300 });
    expect((await post(payment)).status).to.equal(204);
    const queue = await lookInto(PREFIX, redis.url);
    await eventually(async () => (await queue.redis.llen(queue.key('active'))) === 1);
    await redis.setRights('-eval', '-evalsha');
    await eventually(async () => (await countRows(payment.correlationId)) === 1);
    await eventually(() => worker.entries.some(({ code }) => code === 'missing_right'));
    expect(await queue.isStored(payment.correlationId)).to.equal(true);
    await redis.setRights('+eval', '+evalsha');
    await eventually(async () => !(await queue.isStored(payment.correlationId)), 15_000);
    expect(gateway.payments.size).to.equal(1);
    expect(await countRows(payment.correlationId)).to.equal(1);
  }).timeout(30_000);
});
