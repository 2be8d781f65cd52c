import { randomUUID } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'chai';
import { createDb } from '../../src/ledger/db.ts';
import { createLedger } from '../../src/ledger/ledger.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { http } from '../support/http-client.ts';
import { bullQueue, bullWorker, connectedApi, lookInto, NO_DATABASE, NO_REDIS } from '../support/queue.ts';
import { aPayment, eventually, type TestEnv, testApi } from '../support/relay.ts';
import { freshDatabase, holdTable, sql } from '../support/services.ts';

const apiWithLedger = async (env: TestEnv = {}) =>
  connectedApi({ ALLOW_PURGE: 'true', DATABASE_URL: await freshDatabase(), ...env });

describe('POST /purge-payments', () => {
  it('gets 404, and empties nothing, without ALLOW_PURGE', async () => {
    const { url, prefix } = await connectedApi();
    const queue = await lookInto(prefix);
    await http(url).post('/payments').send(aPayment()).expect(204);
    const { body } = await http(url).post('/purge-payments').expect(404);
    expect(body).to.deep.equal({ error: 'not_found' });
    await http(url).get('/purge-payments').expect(404);
    expect(await queue.waiting()).to.have.length(1);
  });

  it('gets 405 for any other method', async () => {
    const { url } = await testApi({ ALLOW_PURGE: 'true', ...NO_DATABASE });
    const { headers } = await http(url).get('/purge-payments').expect(405);
    expect(headers['allow']).to.equal('POST');
  });

  it('gets 200 the first time it is asked', async () => {
    const { url } = await apiWithLedger();
    await http(url).post('/purge-payments').expect(200);
  });

  it('empties ledger and queue, whatever state its jobs are in', async () => {
    const { url, prefix, config, entries } = await apiWithLedger({ PAYMENT_QUEUE_MAX_SIZE: '20' });
    const inside = await lookInto(prefix);
    const queue = await bullQueue(prefix);
    const worker = await bullWorker(prefix);
    const take = async () => (await worker.getNextJob('token'))!;
    await queue.add('payment', {}, { removeOnComplete: false });
    await queue.add('payment', {});
    await (await take()).moveToCompleted(undefined, 'token', false);
    await (await take()).moveToFailed(new Error('no'), 'token', false);
    await queue.add('payment', {}, { delay: 60_000 });
    await queue.add('payment', {}, { priority: 1 });
    const active = aPayment();
    await http(url).post('/payments').send(active).expect(204);
    await take();
    for (let i = 0; i < 10; i += 1) await http(url).post('/payments').send(aPayment()).expect(204);
    expect(await queue.getJobCounts()).to.include({
      active: 1,
      completed: 1,
      delayed: 1,
      failed: 1,
      prioritized: 1,
      waiting: 10,
    });
    await sql(
      config.database.url,
      `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
       VALUES (gen_random_uuid(), 'default', 100, now()), (gen_random_uuid(), 'fallback', 100, now())`,
    );

    const purge = () => http(url).post('/purge-payments');
    const { body } = await eventually(async () => {
      const response = await purge();
      return response.status === 200 && response;
    });
    expect(body).to.deep.equal({ message: 'All payments purged.' });
    // BullMQ writes its version into the queue's meta hash whenever it opens a queue; nothing else is left.
    expect((await inside.keys()).filter((key) => key !== 'meta')).to.deep.equal([]);
    expect((await http(url).get('/health')).body.queue).to.deep.equal({ queue_size: 0, in_flight: 0 });
    expect(await sql(config.database.url, 'SELECT * FROM payments')).to.deep.equal([]);
    expect(entries.filter(({ level }) => level === 'warn')).to.have.length(1);

    // And it goes on as if new: the same id, and a whole queue of others.
    await http(url).post('/payments').send(active).expect(204);
    for (let i = 1; i < 20; i += 1) await http(url).post('/payments').send(aPayment()).expect(204);
    await http(url).post('/payments').send(aPayment()).expect(503);
    expect((await take()).id).to.equal(active.correlationId);

    await purge().expect(200);
    expect((await inside.keys()).filter((key) => key !== 'meta')).to.deep.equal([]);
  });

  it('leaves no payment behind that is posted at the same time, and none unfetchable', async () => {
    const { url, prefix } = await apiWithLedger();
    const queue = await lookInto(prefix);
    await eventually(async () => (await http(url).post('/purge-payments')).status === 200);
    const payments = Array.from({ length: 50 }, () => aPayment());
    await Promise.all([
      ...payments.slice(0, 25).map((payment) => http(url).post('/payments').send(payment).expect(204)),
      http(url).post('/purge-payments').expect(200),
      ...payments.slice(25).map((payment) => http(url).post('/payments').send(payment).expect(204)),
    ]);
    // Each came before the purge and was removed, or after it and is complete.
    const waiting = await queue.waiting();
    for (const { correlationId } of payments) {
      expect(await queue.isStored(correlationId)).to.equal(waiting.includes(correlationId));
    }
    const worker = await bullWorker(prefix);
    for (const id of waiting) expect((await worker.getNextJob('token'))!.id).to.equal(id);
  });

  it('responds with 503 while Redis is down, and leaves the ledger as it is', async () => {
    const { url, config } = await testApi({ ALLOW_PURGE: 'true', ...NO_REDIS });
    await sql(
      config.database.url,
      `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
       VALUES (gen_random_uuid(), 'default', 100, now())`,
    );
    const { body, headers } = await http(url).post('/purge-payments').expect(503);
    expect(body).to.deep.equal({ error: 'queue_unavailable' });
    expect(headers['retry-after']).to.equal('1');
    expect(await sql(config.database.url, 'SELECT * FROM payments')).to.have.length(1);
  });

  it('responds with 503 while PostgreSQL is down', async () => {
    const { url } = await testApi({ ALLOW_PURGE: 'true', ...NO_DATABASE });
    const { body } = await eventually(async () => {
      const response = await http(url).post('/purge-payments').expect(503);
      return response.body.error !== 'queue_unavailable' && response;
    });
    expect(body).to.deep.equal({ error: 'ledger_unavailable' });
  });

  it('leaves the queue as it is while PostgreSQL is down', async () => {
    const { url, prefix } = await connectedApi({ ALLOW_PURGE: 'true' });
    const queue = await lookInto(prefix);
    await http(url).post('/payments').send(aPayment()).expect(204);
    await http(url).post('/purge-payments').expect(503);
    expect(await queue.waiting()).to.have.length(1);
  });

  it('leaves the ledger as it is, and unlocked, when the queue fails in the middle', async () => {
    const { url, prefix, config } = await apiWithLedger();
    await fillLedger(config.database.url);
    await http(url).post('/purge-payments').expect(200);
    await fillLedger(config.database.url);
    const inside = await lookInto(prefix);
    // BullMQ cannot empty it: the list of those that wait is no list.
    await inside.redis.set(inside.key('wait'), 'broken');
    const { body } = await http(url).post('/purge-payments').expect(503);
    expect(body).to.deep.equal({ error: 'queue_unavailable' });
    expect(await summarise(url)).to.deep.equal({ source: 'ledger', totalRequests: 2 });
    await inside.redis.del(inside.key('wait'));
    await http(url).post('/purge-payments').expect(200);
    expect(await summarise(url)).to.deep.equal({ source: 'ledger', totalRequests: 0 });
  });

  it('waits for a transaction that reads the ledger, and for longer than a single try', async () => {
    const { url, config } = await apiWithLedger();
    await fillLedger(config.database.url);
    const release = await holdTable(config.database.url);
    const purged = http(url).post('/purge-payments').expect(200).then();
    // Two tries have failed once two have been seen waiting, with a pause in between.
    for (let tries = 0; tries < 2; tries += 1) {
      await eventually(async () => (await lockWaits(config.database.url)) === 1);
      await eventually(async () => (await lockWaits(config.database.url)) === 0);
    }
    await release();
    await purged;
    expect(await summarise(url)).to.deep.equal({ source: 'ledger', totalRequests: 0 });
  });

  it('gets 200 twenty times beside summaries and recordings, which are all served from the ledger', async () => {
    const { url, config } = await apiWithLedger();
    const db = createDb(config.database);
    atTestEnd(() => db.destroy());
    const table = createLedger(db);
    let isPurging = true;
    const responses: unknown[] = [];
    const summaries = Array.from({ length: 4 }, async () => {
      while (isPurging) responses.push((await summarise(url)).source);
    });
    const recording = (async () => {
      for (; isPurging; await turn()) {
        await table.insertPayments([
          { correlationId: randomUUID(), gateway: 'primary', amountCents: 1, requestedAt: new Date() },
        ]);
      }
    })();
    for (let purges = 0; purges < 20; purges += 1) await http(url).post('/purge-payments').expect(200);
    isPurging = false;
    await Promise.all([...summaries, recording]);
    expect(responses).to.have.length.above(20);
    expect(new Set(responses)).to.deep.equal(new Set(['ledger']));
  });

  it('gets 200 for many requests at once', async () => {
    const { url } = await apiWithLedger();
    await Promise.all(Array.from({ length: 6 }, () => http(url).post('/purge-payments').expect(200)));
  });
});

/** Two payments, one at each gateway. */
const fillLedger = (databaseUrl: string) =>
  sql(
    databaseUrl,
    `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
     VALUES (gen_random_uuid(), 'default', 100, now()), (gen_random_uuid(), 'fallback', 100, now())`,
  );

async function summarise(url: string) {
  const { body, headers } = await http(url).get('/payments-summary?from=2020-01-01&to=2100-01-01').expect(200);
  return {
    source: headers['x-summary-source'],
    totalRequests: body.default.totalRequests + body.fallback.totalRequests,
  };
}

async function lockWaits(databaseUrl: string): Promise<number> {
  const [row] = await sql<{ count: string }>(
    databaseUrl,
    `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
  );
  return Number(row!.count);
}
