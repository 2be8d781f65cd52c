import { createServer } from 'node:net';
import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { atTestEnd } from '../support/cleanup.ts';
import {
  aPayment,
  eventually,
  postPayment,
  type TestEnv,
  testApi,
  testGateway,
  testRedis,
  testWorker,
} from '../support/relay.ts';
import { freshPrefix, sql } from '../support/services.ts';

interface LedgerRow {
  correlation_id: string;
  gateway: string;
  amount_cents: string;
  requested_at: Date;
}

/** An API, and all that a worker for its queue needs. Both gateways are real servers. */
async function relay(env: TestEnv = {}) {
  const prefix = freshPrefix();
  const primary = await testGateway();
  const fallback = await testGateway();
  const { url, config } = await testApi(env, prefix);
  const workerEnv: TestEnv = {
    GATEWAY_PRIMARY_URL: primary.url,
    GATEWAY_FALLBACK_URL: fallback.url,
    DATABASE_URL: config.database.url,
    ...env,
  };
  const rows = () => sql<LedgerRow>(config.database.url, 'SELECT * FROM payments ORDER BY correlation_id');
  return {
    url,
    prefix,
    primary,
    fallback,
    rows,
    work: () => testWorker(workerEnv, prefix),
    recorded: (count: number) =>
      eventually(async () => {
        const found = await rows();
        return found.length >= count && found;
      }),
    isQueueEmpty: async () => {
      const redis = await testRedis();
      return eventually(async () => (await redis.keys(`${prefix}:payments:????????-*`)).length === 0);
    },
  };
}

describe('worker', () => {
  it('pays at the primary and records what was sent', async () => {
    const { url, primary, fallback, work, recorded, isQueueEmpty } = await relay();
    await work();
    const payment = aPayment(1234.56);
    await postPayment(url, payment);
    const [row] = await recorded(1);
    expect(row).to.include({ correlation_id: payment.correlationId, gateway: 'default', amount_cents: '123456' });
    expect(row?.requested_at.toISOString()).to.equal(primary.payments.get(payment.correlationId)?.requestedAt);
    expect(fallback.requests.total).to.equal(0);
    await isQueueEmpty();
  });

  it('pays at the fallback when the primary has no free connection', async () => {
    const env = { GATEWAY_POOL_SIZE: '1', GATEWAY_POOL_TIMEOUT_MS: '50', PAYMENT_QUEUE_MAX_CONCURRENCY: '2' };
    const { url, primary, fallback, work, recorded } = await relay(env);
    primary.set({ delayMs: 400 });
    const [first, second] = [aPayment(), aPayment()];
    for (const payment of [first, second]) await postPayment(url, payment);
    await work();
    const rows = await recorded(2);
    expect(rows.map(({ gateway }) => gateway)).to.have.members(['default', 'fallback']);
    expect(primary.payments.has(first.correlationId)).to.equal(true);
    expect(fallback.payments.has(second.correlationId)).to.equal(true);
    expect(primary.requests.receivedAt(second.correlationId)).to.deep.equal([]);
  });

  it('keeps a payment for the primary while that responds 500', async () => {
    const { url, primary, fallback, work, recorded } = await relay({ GATEWAY_EMPTY_500: 'refused' });
    primary.set({ failure: true });
    await work();
    await postPayment(url);
    await primary.waitFor(({ requests }) => requests.responded(500) >= 4);
    primary.set({ failure: false });
    const [row] = await recorded(1);
    expect(row?.gateway).to.equal('default');
    expect(fallback.requests.total).to.equal(0);
  });

  it('keeps a payment for the primary while its connections are refused', async () => {
    const port = await freePort();
    const { url, fallback, work, recorded } = await relay({ GATEWAY_PRIMARY_URL: `http://127.0.0.1:${port}` });
    const { entries } = await work();
    await postPayment(url);
    await eventually(() => entries.some(({ code }) => code === 'ECONNREFUSED'));
    const primary = await testGateway();
    await primary.close();
    await primary.listen(port);
    const [row] = await recorded(1);
    expect(row?.gateway).to.equal('default');
    expect(fallback.requests.total).to.equal(0);
  });

  it('pays at the fallback while the primary refuses connections, with FALLBACK_ON=not_sent', async () => {
    const port = await freePort();
    const { url, fallback, work, recorded } = await relay({
      GATEWAY_PRIMARY_URL: `http://127.0.0.1:${port}`,
      FALLBACK_ON: 'not_sent',
    });
    await work();
    for (let n = 0; n < 20; n += 1) await postPayment(url);
    const rows = await recorded(20);
    expect(new Set(rows.map(({ gateway }) => gateway))).to.deep.equal(new Set(['fallback']));
    expect(fallback.payments.size).to.equal(20);
  });

  it('records a payment once, with the requestedAt of the gateway, when a timed-out attempt is honoured later', async () => {
    const { url, primary, fallback, work, recorded, isQueueEmpty } = await relay({ GATEWAY_RECEIVE_TIMEOUT_MS: '100' });
    primary.set({ delayMs: 300 });
    await work();
    const payment = aPayment();
    await postPayment(url, payment);
    await primary.waitFor(({ payments }) => payments.has(payment.correlationId));
    primary.set({ delayMs: 0 });
    const rows = await recorded(1);
    await isQueueEmpty();
    const onRecord = primary.payments.get(payment.correlationId)!;
    expect(rows).to.have.length(1);
    expect(rows[0]?.requested_at.toISOString()).to.equal(onRecord.requestedAt);
    const sends = primary.requests.receivedAt(payment.correlationId);
    expect(sends.length).to.be.greaterThan(1);
    // The gateway has the first attempt's time on record, and the ledger must not have a later one.
    expect(Date.parse(onRecord.requestedAt)).to.be.at.most(sends[0]!);
    expect(fallback.requests.total).to.equal(0);
  });

  it('does not send an unresolved payment to the fallback, however crowded the primary is', async () => {
    const env = { GATEWAY_POOL_SIZE: '1', GATEWAY_POOL_TIMEOUT_MS: '30', GATEWAY_RECEIVE_TIMEOUT_MS: '100' };
    const { url, primary, fallback, work, recorded } = await relay({ ...env, PAYMENT_QUEUE_MAX_CONCURRENCY: '4' });
    primary.set({ delayMs: 10_000 });
    const payment = aPayment();
    await postPayment(url, payment);
    const alone = await work();
    await primary.waitFor(({ requests }) => requests.receivedAt(payment.correlationId).length === 1);
    await alone.close();
    // From here on other payments keep the only connection busy, so each run of the first one may find none free.
    primary.set({ delayMs: 80 });
    const others = Array.from({ length: 8 }, () => aPayment());
    for (const other of others) await postPayment(url, other);
    await work();
    await recorded(9);
    expect(fallback.payments.has(payment.correlationId)).to.equal(false);
  });

  it('pays a payment once that is posted again after it was paid at the fallback', async () => {
    const env = { GATEWAY_POOL_SIZE: '1', GATEWAY_POOL_TIMEOUT_MS: '50', PAYMENT_QUEUE_MAX_CONCURRENCY: '2' };
    const { url, primary, fallback, work, recorded, rows, isQueueEmpty } = await relay(env);
    primary.set({ delayMs: 400 });
    const [first, second] = [aPayment(), aPayment()];
    for (const payment of [first, second]) await postPayment(url, payment);
    await work();
    await recorded(2);
    primary.set({ delayMs: 0 });
    await isQueueEmpty();
    expect(fallback.payments.has(second.correlationId)).to.equal(true);
    expect((await postPayment(url, second)).status).to.equal(204);
    await isQueueEmpty();
    expect(primary.payments.has(second.correlationId)).to.equal(false);
    expect(await rows()).to.have.length(2);
  });

  it('makes a dead letter of an invalid payload, with the reason, and sends it nowhere', async () => {
    const { url, prefix, primary, work } = await relay();
    await work();
    const { correlationId } = aPayment();
    await postPayment(url, { correlationId, amount: -1 });
    const redis = await testRedis();
    const reason = await eventually(async () => {
      const [score, failedReason] = await Promise.all([
        redis.zscore(`${prefix}:payments:failed`, correlationId),
        redis.hget(`${prefix}:payments:${correlationId}`, 'failedReason'),
      ]);
      return score !== null && failedReason;
    });
    expect(reason).to.equal('invalid_payment: amount must be more than 0 (got -1)');
    expect(primary.requests.total).to.equal(0);
  });

  it('pays a dead letter that is posted again with a valid payload', async () => {
    const { url, prefix, work, recorded, isQueueEmpty } = await relay();
    await work();
    const payment = aPayment();
    await postPayment(url, { ...payment, amount: 'much' });
    const redis = await testRedis();
    await eventually(async () => (await redis.zscore(`${prefix}:payments:failed`, payment.correlationId)) !== null);
    await postPayment(url, payment);
    const [row] = await recorded(1);
    expect(row?.correlation_id).to.equal(payment.correlationId);
    await isQueueEmpty();
  });

  it('goes on within a second of the recovery of a gateway, and loses nothing', async () => {
    const { url, primary, work, recorded } = await relay({ PAYMENT_QUEUE_MAX_CONCURRENCY: '16' });
    primary.set({ failure: true });
    await work();
    for (let n = 0; n < 50; n += 1) await postPayment(url);
    await primary.waitFor(({ requests }) => requests.responded(500) >= 8);
    primary.set({ failure: false });
    const recoveredAt = performance.now();
    await primary.waitFor(({ payments }) => payments.size > 0);
    expect(performance.now() - recoveredAt).to.be.below(1_000);
    await recorded(50);
    expect(performance.now() - recoveredAt).to.be.below(2_500);
  });

  it('sends one probe at a time while the gateway is down', async () => {
    const { url, primary, work } = await relay({ PAYMENT_QUEUE_MAX_CONCURRENCY: '16' });
    primary.set({ failure: true });
    const { entries } = await work();
    for (let n = 0; n < 100; n += 1) await postPayment(url);
    await eventually(() => entries.some(({ state }) => state === 'open'));
    const before = primary.requests.total;
    const startedAt = performance.now();
    await primary.waitFor(({ requests }) => requests.total >= before + 5);
    // Five probes 200 ms apart; a worker that hammers would need a few milliseconds.
    expect(performance.now() - startedAt).to.be.above(600);
  });

  it('survives a gateway that accepts connections and never responds', async () => {
    const sockets: { destroy(): void }[] = [];
    const blackHole = createServer((socket) => sockets.push(socket));
    await new Promise<void>((resolve) => blackHole.listen(0, '127.0.0.1', resolve));
    const { port } = blackHole.address() as { port: number };
    const { url, work, recorded, fallback } = await relay({
      GATEWAY_PRIMARY_URL: `http://127.0.0.1:${port}`,
      GATEWAY_RECEIVE_TIMEOUT_MS: '100',
    });
    atTestEnd(() => blackHole.close());
    await work();
    await postPayment(url);
    await eventually(() => sockets.length >= 2);
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => blackHole.close(resolve));
    const primary = await testGateway();
    await primary.close();
    await primary.listen(port);
    const [row] = await recorded(1);
    expect(row?.gateway).to.equal('default');
    expect(fallback.requests.total).to.equal(0);
  });
});
