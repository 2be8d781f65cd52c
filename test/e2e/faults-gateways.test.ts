import { expect } from 'chai';
import type { SimulatedGateway } from '../../dev/simulated-gateway/simulated-gateway.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS, startTestStack } from '../support/stack.ts';

/** The fallback gets every payment that may go there. */
const EAGER = { FALLBACK_ON: 'not_sent', FALLBACK_AFTER_MS: '1' };

/** A label of a name has at most 63 letters, so no resolver is called for this one. */
const UNKNOWN_NAME = `http://${'x'.repeat(64)}.invalid:8001`;

/** Ids on record at the fallback although the primary got them. */
function strayed(primary: SimulatedGateway, fallback: SimulatedGateway): string[] {
  return [...fallback.payments.keys()].filter((id) => primary.requests.receivedAt(id).length > 0);
}

/** The payment was sent more than once, and its requestedAt is that of the first attempt. */
function expectFirstAttempt({ requests, payments }: SimulatedGateway, id: string): void {
  const [first, second] = requests.receivedAt(id);
  expect(second).to.not.equal(undefined);
  expect(Date.parse(payments.get(id)!.requestedAt)).to.be.at.most(first!);
}

async function loseResponses(kind: 'cut_replies' | 'reset_replies'): Promise<void> {
  const { primary, fallback, proxies, postMany, settled } = await startTestStack({
    env: EAGER,
    through: ['primary'],
  });
  await proxies.primary.set({ kind });
  await postMany(20);
  // Charged, sent again, 422 for the known id. That response is lost, too.
  await primary.waitFor(({ requests }) => requests.responded(422) >= 2, PATIENCE_MS);
  const charged = [...primary.payments.keys()];
  expect(charged).to.not.be.empty;
  await proxies.primary.set({ kind: 'none' });
  const books = await settled();
  expect(books.primary.size + books.fallback.size).to.equal(20);
  expect(strayed(primary, fallback)).to.deep.equal([]);
  for (const id of charged) expectFirstAttempt(primary, id);
}

async function swallowRequests(kind: 'black_hole' | 'half_open'): Promise<void> {
  const { primary, fallback, proxies, workers, postMany, settled } = await startTestStack({
    // There is one connection, so every further attempt shows that the attempt before has released it.
    env: { GATEWAY_POOL_SIZE: '1', PAYMENT_QUEUE_MAX_CONCURRENCY: '1', GATEWAY_RECEIVE_TIMEOUT_MS: '200' },
    through: ['primary'],
  });
  await postMany(5);
  await settled();
  await proxies.primary.set({ kind });
  await postMany(20);
  await workers[0]!.logged({ state: 'open' });
  expect(primary.requests.total).to.equal(5);
  await proxies.primary.set({ kind: 'none' });
  expect((await settled()).primary.size).to.equal(25);
  expect(fallback.requests.total).to.equal(0);
}

describe('faults of the gateways: attempts that do not arrive or do not pay', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide({
    'a payment for which the primary responds 500 is paid there once it recovers (row 1)': async () => {
      const { primary, fallback, postMany, settled } = await startTestStack();
      primary.set({ failure: true });
      await postMany(20);
      await primary.waitFor(({ requests }) => requests.responded(500) >= 5, PATIENCE_MS);
      primary.set({ failure: false });
      expect((await settled()).primary.size).to.equal(20);
      expect(fallback.requests.total).to.equal(0);
    },

    'a payment goes to the fallback, and only there, while the primary responds 500 for FALLBACK_AFTER_MS (row 1)':
      async () => {
        const { primary, fallback, postMany, settled } = await startTestStack({
          env: { FALLBACK_AFTER_MS: '200', GATEWAY_EMPTY_500: 'refused' },
        });
        primary.set({ failure: true });
        const switched = await postMany(20);
        await fallback.waitFor(({ payments }) => payments.size === 20, PATIENCE_MS);
        primary.set({ failure: false });
        const books = await settled();
        expect([...books.fallback.keys()]).to.have.members(switched);
        const later = await postMany(20);
        expect([...(await settled()).primary.keys()]).to.include.members(later);
      },

    'a payment whose attempt timed out stays with the primary, which charges it later (row 2)': async () => {
      const { primary, fallback, postMany, settled } = await startTestStack({
        env: {
          ...EAGER,
          GATEWAY_RECEIVE_TIMEOUT_MS: '200',
          GATEWAY_POOL_SIZE: '4',
          GATEWAY_POOL_TIMEOUT_MS: '50',
          PAYMENT_QUEUE_MAX_CONCURRENCY: '16',
        },
      });
      primary.set({ delayMs: 700 });
      await postMany(40);
      // Charged long after the worker stopped waiting for the response.
      await primary.waitFor(({ payments }) => payments.size >= 4, PATIENCE_MS);
      const charged = [...primary.payments.keys()];
      primary.set({ delayMs: 0 });
      const books = await settled();
      expect(books.primary.size + books.fallback.size).to.equal(40);
      expect(books.fallback.size).to.be.greaterThan(0);
      expect(strayed(primary, fallback)).to.deep.equal([]);
      for (const id of charged) expectFirstAttempt(primary, id);
    },

    'a payment waits for the primary while the primary refuses connections (row 3)': async () => {
      const { primary, fallback, proxies, workers, postMany, settled } = await startTestStack({ through: ['primary'] });
      await proxies.primary.set({ kind: 'refuse' });
      await postMany(20);
      await workers[0]!.logged({ state: 'open' });
      expect(primary.requests.total).to.equal(0);
      await proxies.primary.set({ kind: 'none' });
      expect((await settled()).primary.size).to.equal(20);
      expect(fallback.requests.total).to.equal(0);
    },

    'a payment waits while a worker has an unknown name for the primary, until a worker has the right one (row 3)':
      async () => {
        const { fallback, workers, startWorker, postMany, settled } = await startTestStack({ workers: 0 });
        await startWorker({ GATEWAY_PRIMARY_URL: UNKNOWN_NAME });
        await postMany(20);
        await workers[0]!.logged({ state: 'open' });
        expect(await workers[0]!.stop()).to.equal(0);
        await startWorker();
        expect((await settled()).primary.size).to.equal(20);
        expect(fallback.requests.total).to.equal(0);
      },

    'a payment that cannot be sent to the primary goes to the fallback at once, with FALLBACK_ON=not_sent (row 3)':
      async () => {
        const { primary, proxies, workers, startWorker, postMany, settled } = await startTestStack({
          env: { FALLBACK_ON: 'not_sent' },
          through: ['primary'],
        });
        await proxies.primary.set({ kind: 'refuse' });
        await postMany(20);
        expect((await settled()).fallback.size).to.equal(20);
        expect(await workers[0]!.stop()).to.equal(0);
        await startWorker({ GATEWAY_PRIMARY_URL: UNKNOWN_NAME });
        await postMany(20);
        expect((await settled()).fallback.size).to.equal(40);
        expect(primary.requests.total).to.equal(0);
      },
  });
});

describe('faults of the gateways: responses that do not come', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide({
    'a payment whose response is lost (cut_replies) is recorded once, with the requestedAt that was charged (row 4)':
      () => loseResponses('cut_replies'),

    'a payment whose response is lost (reset_replies) is recorded once, with the requestedAt that was charged (row 4)':
      () => loseResponses('reset_replies'),

    'a primary behind a black_hole does not use up the connections, and payments go on afterwards (row 5)': () =>
      swallowRequests('black_hole'),

    'a primary behind half_open does not use up the connections, and payments go on afterwards (row 5)': () =>
      swallowRequests('half_open'),

    'no payment is lost at a primary that responds 429 to most of them (row 6)': async () => {
      const { primary, fallback, postMany, settled } = await startTestStack({
        env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '16' },
        primary: { maxConcurrent: 2, maxQueued: 1, delayMs: 20, retryAfterSeconds: 1 },
      });
      await postMany(30);
      expect((await settled()).primary.size).to.equal(30);
      expect(primary.requests.responded(429)).to.be.at.least(3);
      expect(fallback.requests.total).to.equal(0);
    },

    'with both gateways down the queue fills to its cap, accepts no more, and drains after the recovery (row 7)':
      async () => {
        const CAP = 30;
        const CONCURRENCY = 4;
        const { primary, fallback, accepted, unknown, post, settled, workers, countQueue } = await startTestStack({
          apis: 2,
          env: {
            FALLBACK_AFTER_MS: '50',
            PAYMENT_QUEUE_MAX_SIZE: String(CAP),
            PAYMENT_QUEUE_MAX_CONCURRENCY: String(CONCURRENCY),
          },
        });
        for (const gateway of [primary, fallback]) gateway.set({ failure: true });
        for (let n = 0; n < CONCURRENCY; n += 1) await post();
        await workers[0]!.logged({ gateway: 'primary', state: 'open' });
        const statuses = await Promise.all(Array.from({ length: 3 * CAP }, () => post()));
        expect(new Set(statuses)).to.deep.equal(new Set([204, 503]));
        expect(unknown.size).to.equal(0);
        // A payment that a worker hands back is always stored, so the payments in flight come on top.
        expect((await countQueue()).size).to.be.within(CAP - CONCURRENCY, CAP + CONCURRENCY);
        // One probe every 200 ms.
        const before = primary.requests.total;
        const startedAt = performance.now();
        await primary.waitFor(({ requests }) => requests.total >= before + 5, PATIENCE_MS);
        expect(performance.now() - startedAt).to.be.above(600);
        for (const gateway of [primary, fallback]) gateway.set({ failure: false });
        const books = await settled();
        expect(books.primary.size + books.fallback.size).to.equal(accepted.size);
        expect(await post()).to.equal(204);
        await settled();
      },
  });
});
