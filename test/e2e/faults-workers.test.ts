import { expect } from 'chai';
import { holdLedger } from '../support/hold-ledger.ts';
import { aPayment, eventually } from '../support/relay.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS, sends, startTestStack, type TestProcess, type TestStack } from '../support/stack.ts';

/** Sends to the fallback whatever may go there. */
const EAGER = { FALLBACK_ON: 'not_sent', FALLBACK_AFTER_MS: '1' };

/** BullMQ's own limit is 1 stall; what stalls more often fails without being asked. */
const KILLS = 3;

/** A lock lives 5 s, stalled payments are looked for every 2 s; the rest is for a busy machine. */
const TAKEN_OVER_MS = 5_000 + 2_000 + 3_000;

/** A worker that was stopped past its locks finds out, and works on as if nothing had happened. */
async function expectToWorkOn(
  { stopped, other }: { stopped: TestProcess; other: TestProcess },
  { post, settled }: Pick<TestStack, 'post' | 'settled'>,
): Promise<void> {
  expect(await other.stop()).to.equal(0);
  const payment = aPayment();
  await post(payment);
  expect((await settled()).primary.has(payment.correlationId)).to.equal(true);
  expect(await stopped.stop()).to.equal(0);
}

/**
 * Stops the worker while it holds `waiting` before the fallback, has another one pay it at the primary, and lets the first go on,
 * which may not send it to the fallback any more. @returns the other worker.
 */
async function overtake(
  {
    stopped,
    known,
    waiting,
    others,
  }: {
    stopped: TestProcess;
    /** Paid and recorded already. */
    known: ReturnType<typeof aPayment>;
    waiting: ReturnType<typeof aPayment>;
    /** What else has been posted: the other worker pays it, too. */
    others: readonly string[];
  },
  { primary, fallback, proxies, redis, queueKey, startWorker, post, isQueueEmpty, settled }: TestStack,
): Promise<TestProcess> {
  await post(waiting);
  // Taken after the waiting one and known to the ledger: once it is gone, the other has been looked up, too, and is held.
  // Stopped in its look-up instead, it would find itself paid, and never come to the fallback.
  await post(known);
  await eventually(async () => (await redis.exists(queueKey(known.correlationId))) === 0, PATIENCE_MS);
  stopped.signal('SIGSTOP');
  expect(fallback.requests.total).to.equal(0);
  const other = await startWorker({ GATEWAY_PRIMARY_URL: primary.url });
  await eventually(isQueueEmpty, PATIENCE_MS);
  const ids = [known.correlationId, waiting.correlationId, ...others];
  expect([...primary.payments.keys()]).to.have.members(ids);
  stopped.signal('SIGCONT');
  await stopped.logged({ code: 'lock_lost', jobId: waiting.correlationId });
  await proxies.primary.set({ kind: 'none' });
  await settled();
  expect(fallback.requests.total).to.equal(0);
  return other;
}

describe('a worker that is killed', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide({
    // The slowest of all: it is to start first.
    'again and again: the payment is neither failed nor lost, and stays with the primary (row 11)': async () => {
      const { primary, fallback, redis, queueKey, post, startWorker, settled } = await startTestStack({
        workers: 0,
        env: EAGER,
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
      expect([...(await settled()).primary.keys()]).to.deep.equal([payment.correlationId]);
      expect(fallback.requests.total).to.equal(0);
    },

    'before it sends: another one pays, once (row 9a)': async () => {
      const { primary, fallback, databaseUrl, workers, startWorker, postMany, settled } = await startTestStack();
      const ledger = await holdLedger(databaseUrl);
      const ids = await postMany(4);
      await ledger.blocked('SELECT');
      await workers[0]!.kill();
      const killedAt = performance.now();
      await ledger.release();
      expect(primary.requests.total).to.equal(0);
      await startWorker();
      await settled();
      expect(performance.now() - killedAt).to.be.below(TAKEN_OVER_MS);
      expect(sends(primary, ids)).to.deep.equal([1, 1, 1, 1]);
      expect(fallback.requests.total).to.equal(0);
    },

    'during the request: another one stays with the primary, though it is unreachable, and records the first charge (row 9b)':
      async () => {
        const { primary, fallback, proxies, workers, startWorker, postMany, countQueue, settled } =
          await startTestStack({
            env: EAGER,
            through: ['primary'],
          });
        primary.set({ delayMs: 600 });
        const ids = await postMany(4);
        // One that was never taken is free, and may go to the fallback.
        await eventually(async () => (await countQueue()).inFlight === 4, PATIENCE_MS);
        await primary.waitFor(({ requests }) => requests.inFlight > 0, PATIENCE_MS);
        await workers[0]!.kill();
        await primary.waitFor(({ requests }) => requests.inFlight === 0, PATIENCE_MS);
        const charged = [...primary.payments.values()];
        expect(charged).to.not.be.empty;
        await proxies.primary.set({ kind: 'refuse' });
        const other = await startWorker();
        await other.logged({ state: 'open' });
        // What the dead worker had not sent yet counts as unresolved as well.
        expect(fallback.requests.total).to.equal(0);
        await proxies.primary.set({ kind: 'none' });
        const books = await settled();
        expect([...books.primary.keys()]).to.have.members(ids);
        for (const { correlationId, requestedAt } of charged) {
          expect(books.primary.get(correlationId)!.requestedAt).to.equal(requestedAt);
          expect(primary.requests.receivedAt(correlationId)).to.have.length(2);
        }
        expect(fallback.requests.total).to.equal(0);
      },

    'after the charge, before the ledger has it: another one records it (row 9c)': async () => {
      const { primary, fallback, databaseUrl, workers, startWorker, post, recorded, settled } = await startTestStack({
        env: EAGER,
      });
      primary.set({ delayMs: 300 });
      const payment = aPayment();
      await post(payment);
      await primary.waitFor(({ requests }) => requests.total === 1, PATIENCE_MS);
      const ledger = await holdLedger(databaseUrl);
      await ledger.blocked('INSERT');
      await workers[0]!.kill();
      await ledger.drop('INSERT');
      await ledger.release();
      expect((await recorded()).primary.size).to.equal(0);
      const charged = primary.payments.get(payment.correlationId)!;
      await startWorker();
      const books = await settled();
      expect([...books.primary.values()].map(({ requestedAt }) => requestedAt)).to.deep.equal([charged.requestedAt]);
      expect(sends(primary, [payment.correlationId])).to.deep.equal([2]);
      expect(fallback.requests.total).to.equal(0);
    },

    'after the ledger has it, before the queue knows: another one sends nothing (row 9c)': async () => {
      const { primary, fallback, databaseUrl, workers, startWorker, post, recorded, settled } = await startTestStack();
      primary.set({ delayMs: 300 });
      const payment = aPayment();
      await post(payment);
      await primary.waitFor(({ requests }) => requests.total === 1, PATIENCE_MS);
      const ledger = await holdLedger(databaseUrl);
      await ledger.blocked('INSERT');
      await workers[0]!.kill();
      await ledger.release();
      await eventually(async () => (await recorded()).primary.size === 1, PATIENCE_MS);
      await startWorker();
      await settled();
      expect(sends(primary, [payment.correlationId])).to.deep.equal([1]);
      expect(fallback.requests.total).to.equal(0);
    },
  });
});

describe('a worker that is stopped past its locks and goes on', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide({
    'during the request: two workers held the payment, one charge and one row (row 10a)': async () => {
      const stack = await startTestStack({ env: EAGER });
      const { primary, fallback, workers, startWorker, post, isQueueEmpty, settled } = stack;
      primary.set({ delayMs: 300 });
      const payment = aPayment();
      await post(payment);
      await primary.waitFor(({ requests }) => requests.total === 1, PATIENCE_MS);
      const stopped = workers[0]!;
      stopped.signal('SIGSTOP');
      await primary.waitFor(({ payments }) => payments.size === 1, PATIENCE_MS);
      const other = await startWorker();
      await eventually(isQueueEmpty, PATIENCE_MS);
      stopped.signal('SIGCONT');
      // Its time-out is long over, or the response has come: either way it has lost its lock.
      await stopped.logged({ code: 'job_lost' });
      await settled();
      expect(sends(primary, [payment.correlationId])).to.deep.equal([2]);
      expect(fallback.requests.total).to.equal(0);
      await expectToWorkOn({ stopped, other }, stack);
    },

    'while it waits for a free connection: it may not send to the fallback what was paid meanwhile (row 10b)':
      async () => {
        const stack = await startTestStack({
          env: {
            GATEWAY_TIMEOUT_CAP_MS: '60000',
            GATEWAY_RECEIVE_TIMEOUT_MS: '60000',
            GATEWAY_POOL_TIMEOUT_MS: '4000',
          },
          workers: 0,
          through: ['primary'],
        });
        const { primary, proxies, startWorker, post, settled } = stack;
        const stopped = await startWorker({ GATEWAY_POOL_SIZE: '1', PAYMENT_QUEUE_MAX_CONCURRENCY: '3' });
        const [known, occupant, waiting] = [aPayment(), aPayment(), aPayment()];
        await post(known);
        await settled();
        // The occupant holds the only connection: its answer never comes.
        primary.set({ delayMs: 200 });
        await post(occupant);
        await primary.waitFor(({ requests }) => requests.total === 2, PATIENCE_MS);
        await proxies.primary.set({ kind: 'black_hole' });
        const other = await overtake({ stopped, known, waiting, others: [occupant.correlationId] }, stack);
        expect(sends(primary, [waiting.correlationId])).to.deep.equal([1]);
        await expectToWorkOn({ stopped, other }, stack);
      },

    'while it waits for a primary that is down: it may not send to the fallback what was paid meanwhile (row 10b)':
      async () => {
        const stack = await startTestStack({ workers: 0, through: ['primary'] });
        const { proxies, startWorker, post, postMany, settled } = stack;
        const stopped = await startWorker({ FALLBACK_AFTER_MS: '8000' });
        const [known, waiting] = [aPayment(), aPayment()];
        await post(known);
        await settled();
        await proxies.primary.set({ kind: 'refuse' });
        const others = await postMany(3);
        await stopped.logged({ state: 'open' });
        const other = await overtake({ stopped, known, waiting, others }, stack);
        await expectToWorkOn({ stopped, other }, stack);
      },
  });
});
