import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { jobKey, lockKey } from '../../src/queue/bullmq-layout.ts';
import { epochFor } from '../../src/queue/epoch.ts';
import { createJobRuns } from '../../src/queue/job-runs.ts';
import { createProducerConnection, firstConnection } from '../../src/queue/redis.ts';
import { createReplicatedWriter, writerFor } from '../../src/queue/replicated-writer.ts';
import { createSteering } from '../../src/queue/steering.ts';
import { createWaitingJobs } from '../../src/queue/waiting-jobs.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, type HttpResponse, http } from '../support/http-client.ts';
import { recordingLogger } from '../support/logger.ts';
import { bullQueue, bullWorker, lookInto, NO_DATABASE } from '../support/queue.ts';
import {
  aPayment,
  eventually,
  postPayment,
  type TestEnv,
  testApi,
  testConfig,
  testGateway,
  testRedis,
  testWorker,
} from '../support/relay.ts';
import { ownRedis, type ReplicatedRedis, replicatedRedis } from '../support/replica.ts';
import { freshPrefix, sql } from '../support/services.ts';

/** How long a client may wait for its response, whatever the replica does. */
const RESPONDS_WITHIN_MS = 1_000;

/** An API with `DURABILITY=replica` that accepts payments. */
async function apiOver({ url }: Pick<ReplicatedRedis, 'url'>, env: TestEnv = NO_DATABASE) {
  const api = await testApi({ ...env, REDIS_URL: url, DURABILITY: 'replica' });
  const post = (payment = aPayment()) => exchange(`${api.url}/payments`, { body: JSON.stringify(payment) });
  const isReady = async () => (await http(api.url).get('/health/ready')).status === 200;
  await eventually(isReady);
  return { ...api, post, isReady };
}

function expectUnavailable(response: HttpResponse): void {
  expect([response.status, JSON.parse(response.text)]).to.deep.equal([503, { error: 'queue_unavailable' }]);
  expect(response.headers['retry-after']).to.equal('1');
  expect(response.elapsedMs).to.be.below(RESPONDS_WITHIN_MS);
}

describe('POST /payments with DURABILITY=replica', () => {
  it('responds 204 only when the replica has the payment', async () => {
    const redis = await replicatedRedis();
    const { prefix, post } = await apiOver(redis);
    const onReplica = await lookInto(prefix, redis.replica.url);
    for (let n = 0; n < 20; n += 1) {
      const payment = aPayment();
      expect((await post(payment)).status).to.equal(204);
      expect(await onReplica.isStored(payment.correlationId)).to.equal(true);
    }
    const payment = aPayment();
    redis.replica.signal('SIGSTOP');
    expectUnavailable(await post(payment));
    redis.replica.signal('SIGCONT');
    await eventually(async () => (await post(payment)).status === 204);
    expect(await onReplica.isStored(payment.correlationId)).to.equal(true);
  });

  it('responds 503 within a second while no replica follows, is not ready, and accepts again by itself', async () => {
    const redis = await replicatedRedis();
    const { url, post, isReady } = await apiOver(redis);
    await redis.replica.kill();
    for (const response of await Promise.all(Array.from({ length: 20 }, () => post()))) expectUnavailable(response);
    expect(await isReady()).to.equal(false);
    const problem = await eventually(async () => {
      const { problems } = (await http(url).get('/health')).body as { problems?: { code: string; cause: string }[] };
      return problems?.find(({ code, cause }) => code === 'durability' && cause.includes('no replica'));
    });
    expect(problem.cause).to.include('DURABILITY is replica');
    await redis.replica.start();
    await eventually(async () => (await post()).status === 204);
    // A replica that has just copied all data rewrites its file, and may confirm late meanwhile.
    await eventually(isReady);
  });

  it('waits for the replica with a batch of ids that Redis knows, too', async () => {
    const redis = await replicatedRedis();
    const { post } = await apiOver(redis);
    const payment = aPayment();
    expect((await post(payment)).status).to.equal(204);
    redis.replica.signal('SIGSTOP');
    expectUnavailable(await post(payment));
    redis.replica.signal('SIGCONT');
    await eventually(async () => (await post(payment)).status === 204);
  });

  it('loads its script again when Redis has lost it', async () => {
    const redis = await replicatedRedis();
    const { post } = await apiOver(redis);
    expect((await post()).status).to.equal(204);
    await (await testRedis(redis.url)).script('FLUSH');
    await post();
    expect((await post()).status).to.equal(204);
  });

  it('says with one replica that a second one is needed, and accepts all the same', async () => {
    const redis = await replicatedRedis();
    const { url, post } = await apiOver(redis);
    const problems = async () => (await http(url).get('/health')).body.problems as { code: string; cause: string }[];
    const problem = (await problems()).find(({ code }) => code === 'durability');
    expect(problem?.cause).to.include('Add a second one');
    expect((await post()).status).to.equal(204);
    await ownRedis(['--replicaof', '127.0.0.1', String(redis.primary.port)]);
    await redis.followed(2);
    await eventually(async () => !(await problems())?.some(({ code }) => code === 'durability'));
  });
});

describe('a Redis user without a right that DURABILITY=replica needs', () => {
  const RIGHTS = ['on', '>password', '~*', '&*', '+@all'];

  for (const [right, words] of [
    ['-wait', 'WAIT'],
    ['-script|load', 'SCRIPT LOAD'],
    ['-info', 'INFO'],
  ] as const) {
    it(`accepts nothing and names ${words}`, async () => {
      const redis = await replicatedRedis();
      const admin = await testRedis(redis.url);
      await admin.call('ACL', 'SETUSER', 'payrelay', ...RIGHTS, right);
      const userUrl = redis.url.replace('//', '//payrelay:password@');
      const { url, prefix, entries } = await testApi({ ...NO_DATABASE, REDIS_URL: userUrl, DURABILITY: 'replica' });
      const lacking = await eventually(() => entries.find(({ code }) => code === 'missing_right'));
      expect(lacking['cause']).to.include(words);
      expect((await exchange(`${url}/payments`, { body: JSON.stringify(aPayment()) })).status).to.equal(503);
      expect(await (await lookInto(prefix, redis.url)).waiting()).to.deep.equal([]);
    });
  }
});

describe('a Redis user with the documented rights and those that DURABILITY=replica needs', () => {
  it('accepts and pays payments', async () => {
    const redis = await replicatedRedis();
    const page = readFileSync(new URL('../../docs/operating.md', import.meta.url), 'utf8');
    const rights = /^ACL SETUSER payrelay (.*)$/m.exec(page)![1]!.split(' ');
    const more = /`DURABILITY=replica` needs `(\+\S+)`, `(\+\S+)` and `(\+\S+)`/.exec(page)!.slice(1);
    await (await testRedis(redis.url)).call('ACL', 'SETUSER', 'payrelay', ...rights, ...more);
    const { database } = await testConfig();
    const gateway = await testGateway();
    const env = {
      REDIS_URL: redis.url.replace('//', '//payrelay:password@'),
      DATABASE_URL: database.url,
      DURABILITY: 'replica',
      GATEWAY_PRIMARY_URL: gateway.url,
    };
    const prefix = '{payrelay}';
    const { url } = await testApi(env, prefix);
    await testWorker(env, prefix);
    const payment = aPayment();
    await eventually(async () => (await postPayment(url, payment)).status === 204);
    await eventually(() => gateway.payments.has(payment.correlationId));
  }).timeout(20_000);
});

describe('a worker with DURABILITY=replica', () => {
  it('sends nothing while no replica confirms, says so, and goes on by itself', async () => {
    const redis = await replicatedRedis();
    const { database } = await testConfig();
    const env = { REDIS_URL: redis.url, DATABASE_URL: database.url, DURABILITY: 'replica' };
    const { url, prefix, post } = await apiOver(redis, env);
    const gateway = await testGateway();
    const payment = aPayment();
    expect((await post(payment)).status).to.equal(204);
    redis.replica.signal('SIGSTOP');
    await testWorker({ ...env, GATEWAY_PRIMARY_URL: gateway.url }, prefix);
    const said = await eventually(async () => {
      const { problems } = (await http(url).get('/health')).body as { problems?: { code: string; cause: string }[] };
      return problems?.find(({ code, cause }) => code === 'durability' && cause.includes('confirmed'));
    });
    expect(said.cause).to.include('workers take no payments');
    const { body } = await http(url).get(`/payments/${payment.correlationId}`);
    expect([body.state, body.reason]).to.deep.equal(['retrying', 'not_confirmed']);
    expect(gateway.requests.total).to.equal(0);
    redis.replica.signal('SIGCONT');
    await eventually(async () => (await sql(database.url, 'SELECT 1 FROM payments')).length === 1, 20_000);
    expect(gateway.requests.receivedAt(payment.correlationId)).to.have.length(1);
    // A payment that was not confirmed is tried again with the pauses of any other.
  }).timeout(30_000);
});

describe('a run with DURABILITY=replica', () => {
  it('sends nothing when the server that confirms it does not have its lock', async () => {
    const redis = await replicatedRedis();
    const config = await testConfig({ ...NO_DATABASE, REDIS_URL: redis.url, DURABILITY: 'replica' });
    const queue = { name: 'payments', prefix: freshPrefix() };
    await (await bullQueue(queue.prefix, redis.url)).add('payment', aPayment());
    const connection = await testRedis(redis.url);
    const writer = writerFor(config, connection, queue)!;
    atTestEnd(() => writer.close());
    const { logger } = recordingLogger();
    const epoch = epochFor(config, { redis: connection, queue, writer, maxPending: 1, logger });
    atTestEnd(() => epoch?.close());
    const runs = createJobRuns({
      ...{ redis: connection, queue, epoch, writer },
      nowMs: Date.now,
      isOwned: () => true,
      noteUnresolved: async () => {},
    });
    const job = (await (await bullWorker(queue.prefix, null, redis.url)).getNextJob('token'))!;
    const start = (token: string) =>
      runs.start(job, token).then(
        ({ jobId }) => jobId,
        ({ code }) => code,
      );
    // A busy replica confirms late.
    await eventually(async () => (await start('token')) === job.id);
    await connection.del(lockKey(jobKey(queue, job.id!)));
    await eventually(async () => (await start('token')) === 'lock_lost');
  });
});

describe('what operators decide with DURABILITY=replica', () => {
  it('counts when the replica has it', async () => {
    const redis = await replicatedRedis();
    const queue = { name: 'payments', prefix: freshPrefix() };
    const config = { url: redis.url, clusterNodes: [] };
    const connection = createProducerConnection(config);
    atTestEnd(() => connection.disconnect());
    await firstConnection(connection);
    const writer = createReplicatedWriter({ config, redis: connection, key: `${queue.prefix}:x` });
    atTestEnd(() => writer.close());
    const steering = createSteering({ redis: connection, queue, writer });
    const waitingJobs = createWaitingJobs({ redis: connection, queue, writer });
    const by = { who: 'ada', reason: 'a test' };
    const job = { id: aPayment().correlationId, attempts: 1 };
    const { redis: replica, key } = await lookInto(queue.prefix, redis.replica.url);
    await (await testRedis(redis.url)).hset(key(job.id), 'ats', 1);

    /** A busy replica confirms late. */
    const untilConfirmed = (act: () => Promise<unknown>) => eventually(() => act().catch(() => undefined));
    await untilConfirmed(() => steering.set('primary', 'stopped', by));
    expect(JSON.parse((await replica.hget(`${queue.prefix}:steering`, 'primary'))!)).to.include({ state: 'stopped' });
    expect(await untilConfirmed(() => waitingJobs.tie(job, 'fallback'))).to.equal('done');
    expect(await replica.hexists(key(job.id), 'progress')).to.equal(1);
    const freed = { gateway: 'fallback', by: 'ada', delayMs: 0 } as const;
    expect(await untilConfirmed(() => waitingJobs.release(job, freed))).to.equal('done');
    expect(await replica.hexists(key(job.id), 'released')).to.equal(1);

    redis.replica.signal('SIGSTOP');
    const codeOf = (act: Promise<unknown>) =>
      act.then(
        () => 'done',
        ({ code }) => code,
      );
    const codes = [
      await codeOf(steering.set('primary', 'stopped', by)),
      await codeOf(steering.notePause(by)),
      await codeOf(waitingJobs.tie(job, 'fallback')),
    ];
    expect(codes).to.deep.equal(['queue_unavailable', 'queue_unavailable', 'queue_unavailable']);
  });
});
