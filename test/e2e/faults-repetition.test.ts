import { expect } from 'chai';
import { aPayment, eventually } from '../support/relay.ts';
import { PATIENCE_MS, sends, startTestStack } from '../support/stack.ts';

describe('a payment that is posted again', function () {
  this.timeout(3 * PATIENCE_MS);

  it('because the API was killed under load and did not respond, is paid once (row 20)', async () => {
    const { primary, fallback, apis, startLoad, postAgain, unknown, accepted, settled } = await startTestStack({
      apis: 2,
    });
    const stopLoad = startLoad();
    await primary.waitFor(({ payments }) => payments.size >= 20, PATIENCE_MS);
    await apis[0]!.kill();
    await eventually(() => unknown.size > 20, PATIENCE_MS);
    await apis[0]!.start();
    await stopLoad();
    const withoutResponse = [...unknown];
    for (const id of withoutResponse) expect(await postAgain(id)).to.equal(204);
    const books = await settled();
    expect(books.primary.size).to.equal(accepted.size);
    expect([...books.primary.keys()]).to.include.members(withoutResponse);
    expect(fallback.requests.total).to.equal(0);
  });

  it('100 times at once over two APIs, after it was paid, and with another amount, is paid once with its first amount (row 21)', async () => {
    const { primary, fallback, post, settled } = await startTestStack({
      apis: 2,
      workers: 2,
      env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '32' },
    });
    const payment = aPayment(12.34);
    const another = { ...payment, amount: 99.99 };
    const statuses = await Promise.all(Array.from({ length: 100 }, () => post(payment)));
    statuses.push(await post(another));
    await settled();
    statuses.push(await post(payment), await post(another));
    const books = await settled();
    expect(new Set(statuses)).to.deep.equal(new Set([204]));
    expect([...books.primary]).to.have.length(1);
    expect(primary.payments.get(payment.correlationId)?.amount).to.equal(12.34);
    expect(sends(primary, [payment.correlationId])).to.deep.equal([1]);
    expect(fallback.requests.total).to.equal(0);
  });

  it('after the fallback has charged it, never reaches the primary, even after a restart of the worker or the loss of all data in Redis', async () => {
    const { primary, fallback, redis, workers, post, startWorker, settled } = await startTestStack({
      own: ['redis'],
      env: { GATEWAY_POOL_SIZE: '1', GATEWAY_POOL_TIMEOUT_MS: '50', PAYMENT_QUEUE_MAX_CONCURRENCY: '2' },
    });
    primary.set({ delayMs: 500 });
    const [first, second] = [aPayment(), aPayment()];
    await post(first);
    await primary.waitFor(({ requests }) => requests.inFlight === 1, PATIENCE_MS);
    await post(second);
    expect([...(await settled()).fallback.keys()]).to.deep.equal([second.correlationId]);
    primary.set({ delayMs: 0 });

    expect(await post(second)).to.equal(204);
    await settled();
    expect(await workers[0]!.stop()).to.equal(0);
    await startWorker();
    expect(await post(second)).to.equal(204);
    await settled();
    await redis.flushall();
    expect(await post(second)).to.equal(204);
    await settled();
    expect(sends(primary, [second.correlationId])).to.deep.equal([0]);
    expect(sends(fallback, [second.correlationId])).to.deep.equal([1]);
    // New payments work without the lost data, too.
    await post();
    expect((await settled()).primary.size).to.equal(2);
  });
});
