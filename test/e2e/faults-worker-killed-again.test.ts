import { expect } from 'chai';
import { aPayment, eventually } from '../support/relay.ts';
import { PATIENCE_MS, startTestStack } from '../support/stack.ts';

/** BullMQ's own limit is 1; what stalls more often fails without being asked. */
const KILLS = 3;

describe('a payment whose worker is killed again and again', function () {
  this.timeout((KILLS + 2) * PATIENCE_MS);

  it('is neither failed nor lost, and stays with the primary (row 11)', async () => {
    const { primary, fallback, redis, queueKey, post, startWorker, settled } = await startTestStack({
      workers: 0,
      env: { FALLBACK_ON: 'not_sent', FALLBACK_AFTER_MS: '1' },
    });
    primary.set({ delayMs: 300, failure: true });
    const payment = aPayment();
    await post(payment);
    for (let kills = 1; kills <= KILLS; kills += 1) {
      const worker = await startWorker();
      await primary.waitFor(({ requests }) => requests.total === kills, PATIENCE_MS);
      await worker.kill();
    }
    const jobKey = queueKey(payment.correlationId);
    await startWorker();
    await eventually(async () => Number(await redis.hget(jobKey, 'stc')) === KILLS, PATIENCE_MS);
    primary.set({ delayMs: 0, failure: false });
    expect([...(await settled()).default.keys()]).to.deep.equal([payment.correlationId]);
    expect(fallback.requests.total).to.equal(0);
  });
});
