import { Agent, createServer } from 'node:http';
import { UnrecoverableError } from 'bullmq';
import { expect } from 'chai';
import pg from 'pg';
import { freePort } from '../../dev/local/ports.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { createEnqueuer } from '../../src/queue/enqueuer.ts';
import { markBuried } from '../../src/queue/failed-jobs.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { holdLedger } from '../support/hold-ledger.ts';
import { exchange } from '../support/http-client.ts';
import { bullWorker, lookInto } from '../support/queue.ts';
import { aPayment, eventually, postPayment, type TestEnv, testApi, testGateway, testWorker } from '../support/relay.ts';
import { freshDatabase, freshPrefix, sql, startTestPostgres } from '../support/services.ts';
import { countPayments } from '../support/shards.ts';
import { startTestStack } from '../support/stack.ts';

interface DeadLetterRow {
  job_id: string;
  correlation_id: string | null;
  payload: string | null;
  payload_bytes: number | null;
  reason_code: string;
  reason: string;
  gateway: string | null;
  attempts: number;
  accepted_at: Date;
  state: string;
}

/** An API, and all that a worker for its queue needs. Both gateways are real servers. */
async function relay(env: TestEnv = {}) {
  const prefix = freshPrefix();
  const primary = await testGateway();
  const fallback = await testGateway();
  const { url, config } = await testApi(env, prefix);
  const databaseUrl = config.database.url;
  const redisUrl = config.redis.url;
  const queue = await lookInto(prefix, redisUrl);
  const rows = () => sql<DeadLetterRow>(databaseUrl, 'SELECT * FROM dead_letters ORDER BY id');
  return {
    url,
    prefix,
    queue,
    databaseUrl,
    primary,
    fallback,
    rows,
    work: (workerEnv: TestEnv = {}) =>
      testWorker(
        {
          GATEWAY_PRIMARY_URL: primary.url,
          GATEWAY_FALLBACK_URL: fallback.url,
          DATABASE_URL: databaseUrl,
          ...env,
          ...workerEnv,
        },
        prefix,
      ),
    post: async (payload: unknown) => expect((await postPayment(url, payload)).status).to.equal(204),
    failed: () => queue.redis.zcard(queue.key('failed')),
    /** Resolves with the rows once so many are in this state. */
    inState: (state: string, count = 1) =>
      eventually(async () => {
        const found = await rows();
        return found.filter((row) => row.state === state).length === count && found;
      }),
    count: () => countPayments(queue.redis, { name: 'payments', prefix }),
    /** Fails the waiting jobs as a worker of the version before the table did, with the fields of `touch`. */
    async failAsBefore(reason: string, touch: Readonly<Record<string, string>> = {}): Promise<string[]> {
      const worker = await bullWorker(prefix, null, redisUrl);
      const ids: string[] = [];
      for (;;) {
        const job = await worker.getNextJob('token', { block: false });
        if (job === undefined) return ids;
        await job.moveToFailed(new UnrecoverableError(reason), 'token', false);
        if (Object.keys(touch).length > 0) await queue.redis.hset(queue.key(job.id!), touch);
        ids.push(job.id!);
      }
    },
    /** As the worker does with all but the newest. */
    async removeFailed(id: string) {
      await queue.redis.zrem(queue.key('failed'), id);
      await queue.redis.del(queue.key(id));
    },
  };
}

/** A gateway that accepts no connection until `open`. */
async function closedGateway() {
  const port = await freePort();
  const gateway = await testGateway();
  await gateway.close();
  return { gateway, url: `http://127.0.0.1:${port}`, open: () => gateway.listen(port) };
}

describe('dead letters', () => {
  it('keep an invalid payment with its reason and its payload as it was posted', async () => {
    const { work, post, inState, queue, failed, primary } = await relay();
    await work();
    const { correlationId } = aPayment();
    const payload = `{ "amount": 0.00, "correlationId": "${correlationId}" }`;
    await post(payload);
    const [row] = await inState('open');
    expect(row).to.include({
      job_id: correlationId,
      correlation_id: correlationId,
      payload,
      reason_code: 'invalid_payment',
      gateway: null,
      attempts: 1,
    });
    expect(row!.reason).to.match(/^amount /);
    await eventually(async () => (await failed()) === 1);
    const job = await queue.job(correlationId);
    expect(Number(job['timestamp'])).to.equal(row!.accepted_at.getTime());
    expect(primary.requests.total).to.equal(0);
  });

  it('keep payments without an id of their own', async () => {
    const { work, post, inState } = await relay();
    await work();
    for (const payload of ['[]', '{}', '"x"', 'null', '17']) await post(payload);
    const rows = await inState('open', 5);
    expect(rows.map(({ payload }) => payload)).to.have.members(['[]', '{}', '"x"', 'null', '17']);
  });

  it('are closed when their id is posted again and paid', async () => {
    const { work, post, inState, failed, primary } = await relay();
    await work();
    const payment = aPayment();
    await post({ ...payment, amount: -1 });
    await inState('open');
    // The row is committed before the job ends. Until then a second post is a duplicate of the one that dies.
    await eventually(async () => (await failed()) === 1);
    await post(payment);
    await inState('paid');
    expect(primary.payments.has(payment.correlationId)).to.equal(true);
  });

  it('contain a job that has lost its payload, tied to the primary', async () => {
    const { work, post, inState, queue } = await relay();
    const payment = aPayment();
    await post(payment);
    await queue.redis.del(queue.key(payment.correlationId));
    await work();
    const [row] = await inState('open');
    expect(row).to.include({
      reason_code: 'payload_missing',
      correlation_id: payment.correlationId,
      payload: null,
      gateway: 'default',
    });
  });

  it('leave short, shallow payloads in Redis, with the fields that a worker reads', async () => {
    const { work, post, inState, queue, failed } = await relay();
    const [long, deep] = [aPayment(), aPayment()];
    await work();
    await post({ ...long, amount: 0, note: 'x'.repeat(60_000) });
    await post(JSON.stringify({ ...deep, amount: 0 }).replace('}', `,"x":${'['.repeat(5_000)}${']'.repeat(5_000)}}`));
    await inState('open', 2);
    await eventually(async () => (await failed()) === 2);
    for (const { correlationId } of [long, deep]) {
      const { data } = await queue.job(correlationId);
      expect(data!.length).to.be.lessThan(2_500);
      expect(JSON.parse(data!)).to.include({ correlationId, amount: 0 });
    }
  });

  it('are neither marked nor shortened by a run that has lost its job', async () => {
    const { queue, prefix, post } = await relay();
    const payment = { ...aPayment(), amount: 0, note: 'x'.repeat(5_000) };
    await post(payment);
    const worker = await bullWorker(prefix);
    const job = await worker.getNextJob('owner');
    const key = queue.key(job!.id!);
    const { data } = await queue.job(job!.id!);
    expect(await markBuried(queue.redis, key, 'another', data)).to.equal(false);
    expect(await queue.job(job!.id!))
      .to.include({ data })
      .and.not.have.property('buried');
    expect(await markBuried(queue.redis, key, 'owner', data)).to.equal(true);
    expect(await queue.job(job!.id!)).to.include({ buried: '1' });
  });

  it('do not fill a Redis of 60 MB when 1,200 of 60 KB are posted', async function () {
    this.timeout(60_000);
    const redis = await startRedis({ args: ['--maxmemory', '60mb', '--appendonly', 'no', '--save', ''] });
    atTestEnd(() => redis.dispose());
    const env = { REDIS_URL: redis.url, DURABILITY: 'memory', PAYMENT_QUEUE_MAX_CONCURRENCY: '16' };
    const { url, work, queue, rows, failed, post, inState } = await relay(env);
    await work();
    const agent = new Agent({ keepAlive: true, maxSockets: 16 });
    atTestEnd(() => agent.destroy());
    const bodies = Array.from({ length: 1_200 }, (_, n) => JSON.stringify({ n, note: 'x'.repeat(60_000) })).values();
    await Promise.all(
      Array.from({ length: 16 }, async () => {
        for (const body of bodies) {
          // When Redis is full of waiting payments, it has room again as soon as the worker has buried some.
          await eventually(async () => (await exchange(`${url}/payments`, { agent, body })).status === 204, 30_000);
        }
      }),
    );
    await eventually(async () => (await rows()).length === 1_200, 30_000);
    await eventually(async () => (await failed()) === 100, 30_000);
    const used = /used_memory:(\d+)/.exec(await queue.redis.info('memory'))?.[1];
    expect(Number(used)).to.be.lessThan(60e6);
    for (const { payload, payload_bytes } of await rows()) {
      expect(payload).to.have.length(2048);
      expect(payload_bytes).to.be.greaterThan(60_000);
    }
    await post(aPayment());
    await inState('open', 1_200);
  });

  describe('of an older worker', () => {
    it('are copied at the start, once each, and all but the newest leave Redis', async () => {
      const { work, post, failAsBefore, inState, failed, queue, rows } = await relay();
      const payments = Array.from({ length: 300 }, () => aPayment());
      for (const payment of payments) await post(payment);
      const ids = await failAsBefore('the default gateway refused it: HTTP 400');
      expect(ids).to.have.length(300);
      const newest = await queue.redis.zrange(queue.key('failed'), -100, -1);
      const worker = await work();
      const copied = await inState('open', 300);
      expect(copied.map(({ job_id }) => job_id)).to.have.members(ids);
      expect(copied[0]).to.include({ reason_code: 'rejected', gateway: 'default' });
      expect(copied.every(({ payload }) => JSON.parse(payload!).amount === 19.9)).to.equal(true);
      await eventually(async () => (await failed()) === 100);
      expect(await queue.redis.zrange(queue.key('failed'), 0, -1)).to.deep.equal(newest);
      expect(await queue.redis.keys(queue.key('????????-*'))).to.have.length(100);
      await worker.close();
      await work();
      await post({ ...aPayment(), amount: 0 });
      await inState('open', 301);
      expect(await rows()).to.have.length(301);
    });

    it('are copied after a start that ended half way', async () => {
      const { work, post, failAsBefore, inState, databaseUrl, failed, rows, queue } = await relay();
      for (let n = 0; n < 150; n += 1) await post(aPayment());
      const ids = await failAsBefore('the default gateway refused it: HTTP 400');
      // A first page was committed, and nothing written to Redis.
      const { timestamp } = await queue.job(ids[0]!);
      await sql(
        databaseUrl,
        `INSERT INTO dead_letters (job_id, payload, payload_bytes, reason_code, reason, gateway, attempts, accepted_at, died_at, state_by)
         VALUES ($1, '{}', 2, 'rejected', 'first', 'default', 1, $2, now(), 'worker')`,
        [ids[0], new Date(Number(timestamp))],
      );
      await work();
      await inState('open', 150);
      await eventually(async () => (await failed()) === 100);
      expect((await rows()).filter(({ job_id }) => job_id === ids[0])).to.have.length(1);
    });

    it('are copied before the first payment is taken', async () => {
      const { work, post, failAsBefore, inState, databaseUrl, primary, count } = await relay();
      await post(aPayment());
      await failAsBefore('the default gateway refused it: HTTP 400');
      const payment = aPayment();
      await post(payment);
      const client = new pg.Client({ connectionString: databaseUrl });
      await client.connect();
      atTestEnd(() => client.end());
      await client.query('BEGIN');
      await client.query('LOCK TABLE dead_letters IN EXCLUSIVE MODE');
      await work();
      await eventually(
        async () =>
          (
            await sql(
              databaseUrl,
              `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT%'`,
            )
          ).length > 0,
      );
      expect(await count()).to.deep.equal({ size: 1, inFlight: 0 });
      await client.query('ROLLBACK');
      await primary.waitFor(({ payments }) => payments.has(payment.correlationId));
      await inState('open', 1);
    });

    it('are copied when they die beside a new worker that has buried none', async () => {
      const { work, post, failAsBefore, inState, failed, databaseUrl, primary } = await relay({
        PAYMENT_QUEUE_MAX_CONCURRENCY: '1',
      });
      await work();
      // The new worker is busy until the older one has failed the others.
      const ledger = await holdLedger(databaseUrl);
      const payment = aPayment();
      await post(payment);
      await ledger.blocked('SELECT');
      for (let n = 0; n < 120; n += 1) await post(aPayment());
      expect(await failAsBefore('the default gateway refused it: HTTP 400')).to.have.length(120);
      await ledger.release();
      await primary.waitFor(({ payments }) => payments.has(payment.correlationId));
      await inState('open', 120);
      await eventually(async () => (await failed()) === 100);
    });

    it('get their row from the reason, payload, attempts and binding of their jobs', async () => {
      const { work, post, failAsBefore, inState } = await relay();
      await post({ ...aPayment(1), amount: 0 });
      await failAsBefore('invalid_payment: amount must be a positive number');
      await post(aPayment(2));
      await failAsBefore('the fallback gateway refused it: HTTP 400', { progress: '{"gateway":"fallback"}' });
      await post({ ...aPayment(3), amount: '3' });
      await failAsBefore('invalid_payment: amount must be a positive number', { ats: '5', atm: '3' });
      await work();
      const rows = await inState('open', 3);
      const told = rows.map(({ reason_code, reason, gateway }) => [reason_code, reason, gateway]);
      expect(told).to.have.deep.members([
        ['invalid_payment', 'amount must be a positive number', null],
        ['rejected', 'the fallback gateway refused it: HTTP 400', 'fallback'],
        ['invalid_payment', 'amount must be a positive number', 'default'],
      ]);
    });
  });

  describe('with an attempt that may be paid, posted again', () => {
    it('stay at the primary, even when Redis has lost their job', async () => {
      const { gateway: primary, url, open } = await closedGateway();
      const env = { FALLBACK_ON: 'not_sent', FALLBACK_AFTER_MS: '0', GATEWAY_PRIMARY_URL: url };
      const { work, post, failAsBefore, inState, removeFailed, fallback, rows } = await relay(env);
      const payment = aPayment();
      await post(payment);
      await failAsBefore('the default gateway refused it: HTTP 400', { ats: '5', atm: '3' });
      const copying = await work();
      await inState('open');
      await copying.close();
      await removeFailed(payment.correlationId);
      await post(payment);
      const untied = aPayment();
      await post(untied);
      await work();
      await fallback.waitFor(({ payments }) => payments.has(untied.correlationId));
      await inState('queued_again');
      await open();
      await primary.waitFor(({ payments }) => payments.has(payment.correlationId));
      await inState('paid');
      expect(fallback.requests.receivedAt(payment.correlationId)).to.deep.equal([]);
      expect(await rows()).to.have.length(1);
    });

    it('stay at the fallback, and their jobs are bound for workers that do not read dead letters', async () => {
      const { gateway: fallback, url, open } = await closedGateway();
      const { work, post, failAsBefore, inState, removeFailed, primary, queue } = await relay({
        GATEWAY_FALLBACK_URL: url,
      });
      const payment = aPayment();
      await post(payment);
      await failAsBefore('the fallback gateway refused it: HTTP 400', { progress: '{"gateway":"fallback"}' });
      const copying = await work();
      await inState('open');
      await copying.close();
      await removeFailed(payment.correlationId);
      await post(payment);
      await work();
      await inState('queued_again');
      await eventually(async () => (await queue.job(payment.correlationId))['progress'] === '{"gateway":"fallback"}');
      await open();
      await fallback.waitFor(({ payments }) => payments.has(payment.correlationId));
      await inState('paid');
      expect(primary.requests.receivedAt(payment.correlationId)).to.deep.equal([]);
    });
  });

  it('are open again when the ledger has them as queued and Redis has lost the job', async () => {
    const { work, post, inState, databaseUrl, removeFailed, failed } = await relay();
    const first = await work();
    const [lost, dead] = [aPayment(), aPayment()];
    for (const payment of [lost, dead]) await post({ ...payment, amount: 0 });
    await inState('open', 2);
    await eventually(async () => (await failed()) === 2);
    await first.close();
    await removeFailed(lost.correlationId);
    const { gateway: _gateway, url } = await closedGateway();
    const waiting = aPayment();
    await sql(
      databaseUrl,
      `INSERT INTO dead_letters (job_id, correlation_id, reason_code, reason, gateway, attempts, accepted_at, died_at, state_by)
       VALUES ($1::text, $1::uuid, 'rejected', 'HTTP 400', 'default', 1, now(), now(), 'worker')`,
      [waiting.correlationId],
    );
    await post(waiting);
    await sql(databaseUrl, `UPDATE dead_letters SET state = 'queued_again', state_at = now() - interval '2 minutes'`);
    await work({ GATEWAY_PRIMARY_URL: url });
    const rows = await inState('open', 2);
    expect(rows.filter(({ state }) => state === 'queued_again').map(({ job_id }) => job_id)).to.deep.equal([
      waiting.correlationId,
    ]);
  });

  it('fail only after PostgreSQL has their row, and none is lost while it is down', async function () {
    this.timeout(30_000);
    const postgres = await startTestPostgres();
    atTestEnd(() => postgres.dispose());
    const { work, post, inState, failed, count } = await relay({ DATABASE_URL: await freshDatabase(postgres) });
    await work();
    await post({ ...aPayment(), amount: 0 });
    await inState('open');
    await postgres.stop();
    const payments = Array.from({ length: 30 }, () => ({ ...aPayment(), amount: 0 }));
    for (const payment of payments) await post(payment);
    await eventually(async () => (await count()).inFlight > 0);
    await eventually(async () => (await failed()) === 1);
    const { size, inFlight } = await count();
    expect(size + inFlight).to.equal(30);
    await postgres.start();
    await inState('open', 31);
    await eventually(async () => (await failed()) === 31);
  });

  it('are one open row after a crash between the row and the end of the job', async function () {
    this.timeout(60_000);
    const { redis, databaseUrl, workers, startWorker, proxies, post, queueKey } = await startTestStack({
      through: ['redis'],
      apis: 1,
    });
    const ledger = await holdLedger(databaseUrl);
    const payment = { ...aPayment(), amount: 0 };
    expect(await post(payment)).to.equal(204);
    await ledger.blocked('INSERT');
    await proxies.redis.set({ kind: 'black_hole' });
    await ledger.release();
    const rows = () => sql<DeadLetterRow>(databaseUrl, 'SELECT * FROM dead_letters');
    await eventually(async () => (await rows()).length === 1);
    await workers[0]!.kill();
    await proxies.redis.set({ kind: 'none' });
    expect(await redis.zcard(queueKey('failed'))).to.equal(0);
    // Meanwhile the id is posted again: its job still exists.
    await eventually(async () => (await post(payment)) === 204);
    await startWorker();
    await eventually(async () => (await redis.zcard(queueKey('failed'))) === 1, 20_000);
    expect((await rows()).map(({ state, attempts }) => [state, attempts])).to.deep.equal([['open', 2]]);
  });

  it('do not include any of 12,000 valid payments behind a proxy that responds 400 with a page', async function () {
    this.timeout(30_000);
    const { prefix, work, count, failed, rows, queue } = await relay();
    let requests = 0;
    const proxy = createServer((request, response) => {
      requests += 1;
      request.resume();
      response.writeHead(400, { 'content-type': 'text/html' });
      response.end('<h1>400 Bad Request</h1><p>The plain HTTP request was sent to HTTPS port</p>');
    });
    const port = await freePort();
    await new Promise<void>((resolve) => proxy.listen(port, '127.0.0.1', resolve));
    atTestEnd(() => proxy.close());
    atTestEnd(() => proxy.closeAllConnections());
    const enqueuer = createEnqueuer({
      redis: queue.redis,
      queue: { name: 'payments', prefix },
      maxSize: 50_000,
      serverCheck: { fault: undefined },
    });
    for (let n = 0; n < 12; n += 1) {
      const payments = Array.from({ length: 1_000 }, () => aPayment());
      await Promise.all(
        payments.map((payment) => enqueuer.enqueue({ id: payment.correlationId, data: JSON.stringify(payment) })),
      );
    }
    await work({ GATEWAY_PRIMARY_URL: `http://127.0.0.1:${port}` });
    await eventually(() => requests >= 8);
    const { size, inFlight } = await count();
    expect(size + inFlight).to.equal(12_000);
    expect(await failed()).to.equal(0);
    expect(await rows()).to.deep.equal([]);
  });
});
