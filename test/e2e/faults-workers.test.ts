import { expect } from 'chai';
import { holdLedger } from '../support/hold-ledger.ts';
import { aPayment, eventually } from '../support/relay.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS, sends, startTestStack, type TestProcess, type TestStack } from '../support/stack.ts';

/** The fallback gets every payment that may go there. */
const EAGER = { FALLBACK_ON: 'not_sent', FALLBACK_AFTER_MS: '1' };

/** BullMQ's default allows 1 stall and fails a job that stalls more often. */
const KILLS = 3;

/** A lock lives 5 s, the check for stalled payments runs every 2 s. The rest is for a busy machine. */
const TAKEN_OVER_MS = 5_000 + 2_000 + 3_000;

/** A worker that was stopped past its locks notices, and works on. */
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
 * Stops the worker while `waiting` waits for the fallback, lets another worker pay it at the primary, then lets the first go
 * on. The first must not send it to the fallback any more. @returns the other worker
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
    /** Other posted payments. The other worker pays them, too. */
    others: readonly string[];
  },
  { primary, fallback, proxies, redis, queueKey, startWorker, post, isQueueEmpty, settled }: TestStack,
): Promise<TestProcess> {
  await post(waiting);
  // The worker takes this one after the waiting one, and finds it in the ledger. When its job has ended, the look-up of the
  // waiting one has ended, too. A worker stopped within that look-up would find it paid and never come to the fallback.
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
    // The slowest scenario starts first.
    'again and again: the payment does not fail, is not lost, and stays with the primary (row 11)': async () => {
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

    'before it sends: another worker pays, once (row 9a)': async () => {
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

    'during the request: another worker stays with the primary, though it is unreachable, and records the first charge (row 9b)':
      async () => {
        const { primary, fallback, proxies, workers, startWorker, postMany, countQueue, settled } =
          await startTestStack({
            env: EAGER,
            through: ['primary'],
          });
        primary.set({ delayMs: 600 });
        const ids = await postMany(4);
        // A payment that no worker has taken may go to the fallback.
        await eventually(async () => (await countQueue()).inFlight === 4, PATIENCE_MS);
        await primary.waitFor(({ requests }) => requests.inFlight > 0, PATIENCE_MS);
        await workers[0]!.kill();
        await primary.waitFor(({ requests }) => requests.inFlight === 0, PATIENCE_MS);
        const charged = [...primary.payments.values()];
        expect(charged).to.not.be.empty;
        await proxies.primary.set({ kind: 'refuse' });
        const other = await startWorker();
        await other.logged({ state: 'open' });
        // Payments that the dead worker had not sent yet count as unresolved, too.
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

    'after the charge, before the row: another worker records it (row 9c)': async () => {
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

    'after the row, before the end of the job: another worker sends nothing (row 9c)': async () => {
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
    'during the request: two workers have the payment in flight, with one charge and one row (row 10a)': async () => {
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

    'while it waits for a free connection: it does not send to the fallback what another worker has paid (row 10b)':
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
        // The occupant uses the only connection, as its response never comes.
        primary.set({ delayMs: 200 });
        await post(occupant);
        await primary.waitFor(({ requests }) => requests.total === 2, PATIENCE_MS);
        await proxies.primary.set({ kind: 'black_hole' });
        const other = await overtake({ stopped, known, waiting, others: [occupant.correlationId] }, stack);
        expect(sends(primary, [waiting.correlationId])).to.deep.equal([1]);
        await expectToWorkOn({ stopped, other }, stack);
      },

    'while it waits for a primary that is down: it does not send to the fallback what another worker has paid (row 10b)':
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
