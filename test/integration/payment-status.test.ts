import { expect } from 'chai';
import { createDb } from '../../src/ledger/db.ts';
import { createLedger } from '../../src/ledger/ledger.ts';
import { paymentStatus } from '../../src/operations/payment-status.ts';
import { paymentQueue } from '../../src/queue/payment-queue.ts';
import { createQueueAdmin } from '../../src/queue/queue-admin.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { aPayment, eventually, postPayment, testApi, testGateway, testWorker } from '../support/relay.ts';

async function stage() {
  const { url, prefix, config } = await testApi();
  const db = createDb(config.database);
  atTestEnd(() => db.destroy());
  const queueAdmin = createQueueAdmin(config.redis, paymentQueue(config.queue));
  atTestEnd(() => queueAdmin.close());
  const gateway = await testGateway();
  const env = { DATABASE_URL: config.database.url, GATEWAY_PRIMARY_URL: gateway.url };
  return {
    startWorker: () => testWorker(env, prefix),
    post: (payment: object) => postPayment(url, payment),
    status: (id: string) => paymentStatus(id, { queueAdmin, ledger: createLedger(db) }),
  };
}

describe('paymentStatus', () => {
  it('finds a payment in the queue, then in the ledger', async () => {
    const { startWorker, post, status } = await stage();
    const payment = aPayment();
    await post(payment);
    const waiting = await status(payment.correlationId.toUpperCase());
    expect(waiting).to.deep.include({ correlationId: payment.correlationId, recorded: undefined, deadLetters: [] });
    expect(waiting.job).to.include({ state: 'waiting', runs: 0, boundTo: undefined });
    await startWorker();
    const paid = await eventually(async () => {
      const found = await status(payment.correlationId);
      return found.recorded !== undefined && found.job === undefined && found;
    });
    expect(paid.recorded).to.deep.include({ gateway: 'primary', amountCents: 1990 });
  });

  it('finds a dead letter with its reason', async () => {
    const { startWorker, post, status } = await stage();
    const { correlationId } = aPayment();
    await post({ correlationId, amount: -1 });
    await startWorker();
    const dead = await eventually(async () => {
      const found = await status(correlationId);
      return found.job?.state === 'failed' && found;
    });
    expect(dead.recorded).to.equal(undefined);
    expect(dead.deadLetters).to.have.length(1);
    expect(dead.deadLetters[0]).to.include({ state: 'open', code: 'invalid_payment' });
  });

  it('has nothing on an id that nobody posted, and refuses what is no id', async () => {
    const { status } = await stage();
    const { correlationId } = aPayment();
    expect(await status(correlationId)).to.deep.equal({
      correlationId,
      job: undefined,
      recorded: undefined,
      deadLetters: [],
    });
    const fault = await status('x').catch((error: unknown) => error);
    expect(fault).to.be.instanceOf(RangeError);
  });
});
