import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { UnrecoverableError } from 'bullmq';
import { expect } from 'chai';
import { queueKey, shardsKey, unresolvedKey } from '../../src/queue/bullmq-layout.ts';
import { paymentQueues, shardOf } from '../../src/queue/shards.ts';
import { combineWaitingJobs, createWaitingJobs } from '../../src/queue/waiting-jobs.ts';
import { http } from '../support/http-client.ts';
import { bullWorker } from '../support/queue.ts';
import { aPayment, eventually, type TestEnv, testApi, testRedis } from '../support/relay.ts';
import { freshPrefix } from '../support/services.ts';
import { countPayments } from '../support/shards.ts';

const execute = promisify(execFile);

const SHARDS = 4;

/** An API node over four shards on one Redis, with the operator's pages. */
async function aRelay(env: TestEnv = {}, prefix = freshPrefix()) {
  const login = { DASHBOARD_USER: 'operator', DASHBOARD_PASSWORD: 'secret' };
  const node = await testApi({ QUEUE_SHARDS: String(SHARDS), ALLOW_PURGE: 'true', ...login, ...env }, prefix);
  const { home, shards } = paymentQueues({ name: 'payments', prefix, shards: SHARDS });
  const redis = await testRedis();
  const api = http(node.url);
  return {
    ...node,
    home,
    shards,
    redis,
    api,
    operator: http(node.url).auth('operator', 'secret'),
    sizes: async () => (await Promise.all(shards.map((shard) => countPayments(redis, shard)))).map(({ size }) => size),
    /** Posts one payment of each shard. @returns their ids, in the order of the shards */
    async postToEach(): Promise<string[]> {
      const payments = shards.map((_, index) => paymentOf(index));
      for (const payment of payments) await api.post('/payments').send(payment).expect(204);
      return payments.map(({ correlationId }) => correlationId);
    },
  };
}

function paymentOf(shard: number) {
  for (;;) {
    const payment = aPayment();
    if (shardOf(payment.correlationId, SHARDS) === shard) return payment;
  }
}

/** Ends the next payment of a shard as a dead letter, as a worker does. */
async function bury(prefix: string): Promise<void> {
  const worker = await bullWorker(prefix);
  const job = (await worker.getNextJob('token'))!;
  await job.moveToFailed(new UnrecoverableError('invalid_payment: amount'), 'token', false);
}

describe('four shards', () => {
  it('have each payment in its own, once', async () => {
    const { postToEach, shards, redis, api } = await aRelay();
    const ids = await postToEach();
    for (const correlationId of ids) await api.post('/payments').send({ correlationId, amount: 19.9 }).expect(204);
    for (const [index, shard] of shards.entries()) {
      expect(await redis.lrange(queueKey(shard, 'wait'), 0, -1)).to.deep.equal([ids[index]]);
    }
  });

  it('show their sum in health, metrics and the state of the operator', async () => {
    const { postToEach, api, operator } = await aRelay({ PAYMENT_QUEUE_MAX_SIZE: '1003' });
    await postToEach();
    expect((await api.get('/health').expect(200)).body.queue).to.deep.equal({ queue_size: 4, in_flight: 0 });
    const { text } = await api.get('/metrics').expect(200);
    expect(text).to.match(/^payrelay_queue_payments\{state="waiting"\} 4$/m);
    // Each shard has 250 places.
    expect(text).to.match(/^payrelay_queue_capacity 1000$/m);
    const { body } = await operator.get('/admin/api/state').expect(200);
    expect(body.queue).to.include({ size: 4, waiting: 4, capacity: 1_000 });
  });

  it('say which of them is full, and go on accepting for the others', async () => {
    const { api, shards, redis } = await aRelay({ PAYMENT_QUEUE_MAX_SIZE: '10' });
    await redis.rpush(queueKey(shards[2]!, 'wait'), 'a', 'b');
    const full = await api.post('/payments').send(paymentOf(2)).expect(503);
    expect(full.body).to.deep.equal({ error: 'queue_full' });
    for (const shard of [0, 1, 3]) await api.post('/payments').send(paymentOf(shard)).expect(204);
    const { problems } = (await api.get('/health').expect(200)).body;
    expect(problems.find(({ code }: { code: string }) => code === 'queue_full').cause).to.include('shard 3 of 4');
  });

  it('are looked into by the id of a payment', async () => {
    const { postToEach, api } = await aRelay();
    for (const id of await postToEach()) {
      expect((await api.get(`/payments/${id}`).expect(200)).body).to.include({ correlationId: id, state: 'queued' });
    }
  });

  it('are all emptied by a purge, which leaves their number', async () => {
    const { postToEach, api, sizes, shards, home, redis } = await aRelay();
    await postToEach();
    await bury(shards[1]!.prefix);
    for (const shard of shards) await redis.zadd(unresolvedKey(shard, 'primary'), 1, 'id');
    await api.post('/purge-payments').expect(200);
    expect(await sizes()).to.deep.equal([0, 0, 0, 0]);
    for (const shard of shards) {
      expect(await redis.keys(`${queueKey(shard, '')}*`)).to.deep.equal([]);
      expect(await redis.get(shardsKey(shard))).to.equal('4');
    }
    expect(await redis.get(shardsKey(home))).to.equal('4');
  });

  it('are paused and resumed together', async () => {
    const { operator, api, shards, redis } = await aRelay();
    const paused = () => Promise.all(shards.map((shard) => redis.hget(queueKey(shard, 'meta'), 'paused')));
    await operator.post('/admin/api/pause').send({ reason: 'test' }).expect(200);
    expect(await paused()).to.deep.equal(['1', '1', '1', '1']);
    const problems = (await api.get('/health').expect(200)).body.problems as { code: string; cause: string }[];
    expect(problems.find(({ code }) => code === 'queue_paused')!.cause).to.include('paused by operator: test');
    await operator.post('/admin/api/resume').send({ reason: 'test' }).expect(200);
    expect(await paused()).to.deep.equal([null, null, null, null]);
  });

  it('are queues of their own in the dashboard, each with its payments and its dead letters', async () => {
    const { postToEach, operator, shards, sizes } = await aRelay();
    const ids = await postToEach();
    await bury(shards[1]!.prefix);
    await bury(shards[3]!.prefix);
    const { queues } = await eventually(async () => {
      const { status, body } = await operator.get('/admin/queues/api/queues');
      return status === 200 && body;
    });
    const seen = queues.map(({ name, counts }: { name: string; counts: Record<string, number> }) => [
      name,
      counts['waiting'],
      counts['failed'],
    ]);
    expect(seen).to.deep.equal([
      ['payments-1', 1, 0],
      ['payments-2', 0, 1],
      ['payments-3', 1, 0],
      ['payments-4', 0, 1],
    ]);
    const path = (index: number) => `/admin/queues/api/queues/payments-${index + 1}`;
    expect((await operator.get(`${path(2)}/${ids[2]}`).expect(200)).body.job.data.correlationId).to.equal(ids[2]);
    await operator.put(`${path(1)}/${ids[1]}/retry`).expect(204);
    expect(await sizes()).to.deep.equal([1, 1, 1, 0]);
    expect((await operator.put(`${path(3)}/retry/failed`).expect(200)).body).to.deep.equal({ retried: 1, skipped: 0 });
    expect(await sizes()).to.deep.equal([1, 1, 1, 1]);
    await operator.put(`${path(4)}/retry/failed`).expect(404);
    await operator.put(`${path(0)}/pause`).expect(200);
  });

  it('have one list of unresolved payments, in the order of time on every page', async () => {
    const { redis, shards } = await aRelay();
    const waitingJobs = combineWaitingJobs(shards.map((queue) => createWaitingJobs({ redis, queue })));
    const listed = Array.from({ length: 30 }, (_, at) => ({ id: aPayment().correlationId, at: Math.floor(at / 2) }));
    for (const { id, at } of listed) {
      await redis.zadd(unresolvedKey(shards[shardOf(id, SHARDS)]!, 'fallback'), at, id);
    }
    const expected = listed.toSorted((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1)).map(({ id }) => id);
    const found: string[] = [];
    for (let offset = 0; offset < 35; offset += 7) {
      const page = await waitingJobs.unresolved('fallback', { offset, limit: 7, notedBeforeMs: 100 });
      found.push(...page.map(({ id }) => id));
    }
    expect(found).to.deep.equal(expected);
    const old = await waitingJobs.unresolved('fallback', { offset: 0, limit: 100, notedBeforeMs: 2 });
    expect(old.map(({ id }) => id)).to.deep.equal(expected.slice(0, 6));
  });

  it('keep a process with another number from accepting', async () => {
    const { prefix, postToEach } = await aRelay();
    await postToEach();
    const other = await aRelay({ QUEUE_SHARDS: '2' }, prefix);
    await other.api.get('/health/ready').expect(503);
    const { body } = await other.api.post('/payments').send(aPayment()).expect(503);
    expect(body).to.deep.equal({ error: 'queue_unavailable' });
    const problem = await eventually(async () => {
      const { problems = [] } = (await other.api.get('/health').expect(200)).body;
      return problems.find(({ code }: { code: string }) => code === 'queue_unavailable');
    });
    expect(problem.cause).to.include('QUEUE_SHARDS is 2').and.include('4 shards');
  });

  it('keep the operator of a node with another number from acting on its queues', async () => {
    const { prefix, postToEach } = await aRelay();
    await postToEach();
    const { operator, api } = await aRelay({ QUEUE_SHARDS: '2' }, prefix);
    const body = { reason: 'maintenance' };
    await operator.post('/admin/api/pause').send(body).expect(503);
    await operator.get('/admin/api/gateways').expect(503);
    await operator.post('/admin/api/unresolved/release?gateway=primary').send(body).expect(503);
    await operator.get('/admin/queues/api/queues').expect(503);
    await api.post('/purge-payments').expect(503);
  });

  it('keep a command with another number from acting on its queues', async () => {
    const { prefix, config, postToEach } = await aRelay();
    await postToEach();
    const env = {
      PATH: process.env['PATH'],
      REDIS_URL: config.redis.url,
      DATABASE_URL: config.database.url,
      REDIS_KEY_PREFIX: prefix.slice(1, -1),
      QUEUE_SHARDS: '2',
    };
    for (const args of [
      ['queue-state.ts', 'pause', '--reason', 'x'],
      ['gateway-state.ts', 'show'],
      ['payments.ts', 'unresolved', '--gateway', 'primary'],
      ['console.ts'],
    ]) {
      const [file, ...rest] = args;
      const command = fileURLToPath(new URL(`../../src/commands/${file}`, import.meta.url));
      const failure: { stderr: string } = await execute(process.execPath, [command, ...rest], { env }).then(
        () => expect.fail(args.join(' ')),
        (error: { stderr: string }) => error,
      );
      expect(failure.stderr, args.join(' ')).to.include('QUEUE_SHARDS is 2, and the relay has 4 shards');
    }
  }).timeout(20_000);

  it('accept nothing while they are closed, at once and with the reason', async () => {
    const { api, redis, shards } = await aRelay();
    for (const shard of shards) await redis.set(shardsKey(shard), 'closed');
    const { body } = await api.post('/payments').send(aPayment()).expect(503);
    expect(body).to.deep.equal({ error: 'queue_unavailable' });
    await api.get('/health/ready').expect(503);
    const problem = await eventually(async () => {
      const { problems = [] } = (await api.get('/health').expect(200)).body;
      return problems.find(({ code }: { code: string }) => code === 'queue_unavailable');
    });
    expect(problem.cause).to.include('being changed');
    for (const shard of shards) await redis.set(shardsKey(shard), '4');
    await api.post('/payments').send(aPayment()).expect(204);
  });

  it('are a part each: one that does not fit fails only its own payments', async () => {
    const { api, redis, shards } = await aRelay();
    await redis.set(shardsKey(shards[1]!), 'closed');
    for (const shard of [0, 2, 3]) await api.post('/payments').send(paymentOf(shard)).expect(204);
    await api.post('/payments').send(paymentOf(1)).expect(503);
    await api.get('/health/ready').expect(200);
  });
});
