import { expect } from 'chai';
import { holdLedger } from '../support/hold-ledger.ts';
import { aPayment, eventually } from '../support/relay.ts';
import { sql } from '../support/services.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS, sends, startTestStack } from '../support/stack.ts';

const RESUMED_MS = 2_000;

async function loseLedgerAfterCharge(how: 'killed' | 'unreachable'): Promise<void> {
  const { primary, fallback, postgresServer, proxies, workers, postMany, settled } = await startTestStack({
    own: ['postgres'],
    through: ['postgres'],
    env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '4' },
  });
  primary.set({ delayMs: 300 });
  const ids = await postMany(4);
  await primary.waitFor(({ requests }) => requests.inFlight === 4, PATIENCE_MS);
  if (how === 'killed') await postgresServer.kill();
  else await proxies.postgres.set({ kind: 'black_hole' });
  await primary.waitFor(({ payments }) => payments.size === 4, PATIENCE_MS);
  const later = await postMany(20);
  await workers[0]!.logged({ code: 'ledger_unavailable' });
  expect(primary.requests.total).to.equal(4);
  primary.set({ delayMs: 0 });
  if (how === 'killed') await postgresServer.start();
  else await proxies.postgres.set({ kind: 'none' });
  expect((await settled()).primary.size).to.equal(24);
  expect(new Set(sends(primary, [...ids, ...later]))).to.deep.equal(new Set([1]));
  expect(fallback.requests.total).to.equal(0);
}

describe('faults of PostgreSQL', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide({
    'down before the charge: payments are accepted, and no gateway gets one until PostgreSQL is back (row 18)':
      async () => {
        const { primary, fallback, postgresServer, redis, queueKey, workers, accepted, post, postMany, settled } =
          await startTestStack({
            own: ['postgres'],
            env: { FALLBACK_AFTER_MS: '1', PAYMENT_QUEUE_MAX_CONCURRENCY: '4' },
          });
        await post();
        await settled();
        await postgresServer.kill();
        await postMany(20);
        expect(accepted.size).to.equal(21);
        await workers[0]!.logged({ code: 'ledger_unavailable' });
        await eventually(async () => (await redis.llen(queueKey('active'))) === 4, PATIENCE_MS);
        expect(primary.requests.total).to.equal(1);
        await postgresServer.start();
        const startedAt = performance.now();
        await primary.waitFor(({ payments }) => payments.size > 1, PATIENCE_MS);
        expect(performance.now() - startedAt).to.be.below(RESUMED_MS);
        expect((await settled()).primary.size).to.equal(21);
        expect(fallback.requests.total).to.equal(0);
      },

    'killed after the charge: no other payment is sent, and the paid ones are recorded after the recovery (row 18)':
      () => loseLedgerAfterCharge('killed'),

    'unreachable after the charge: no other payment is sent, and the paid ones are recorded after the recovery (row 18)':
      () => loseLedgerAfterCharge('unreachable'),

    'its reply to the commit is lost: the row is there once, as the next try finds a known id (row 19)': async () => {
      const { primary, proxies, workers, postMany, recorded, isQueueEmpty, settled } = await startTestStack({
        through: ['postgres'],
      });
      primary.set({ delayMs: 200 });
      const ids = await postMany(4);
      await primary.waitFor(({ requests }) => requests.inFlight === 4, PATIENCE_MS);
      await proxies.postgres.set({ kind: 'reset_replies' });
      await eventually(async () => (await recorded()).primary.size > 0, PATIENCE_MS);
      await workers[0]!.logged({ code: 'ledger_unavailable' });
      expect(await isQueueEmpty()).to.equal(false);
      await proxies.postgres.set({ kind: 'none' });
      expect((await settled()).primary.size).to.equal(4);
      expect(new Set(sends(primary, ids))).to.deep.equal(new Set([1]));
    },

    'it ends the connection of an insert before the insert runs: in the end the row is there, once (row 19)':
      async () => {
        const { primary, databaseUrl, workers, post, recorded, settled } = await startTestStack();
        primary.set({ delayMs: 300 });
        const payment = aPayment();
        await post(payment);
        await primary.waitFor(({ requests }) => requests.inFlight === 1, PATIENCE_MS);
        const ledger = await holdLedger(databaseUrl);
        await ledger.blocked('INSERT');
        await ledger.drop('INSERT');
        await workers[0]!.logged({ code: 'ledger_unavailable' });
        await ledger.release();
        await settled();
        expect((await recorded()).primary.size).to.equal(1);
        expect(sends(primary, [payment.correlationId])).to.deep.equal([1]);
      },

    'it ends all connections again and again under load: each row is there, once (row 19)': async () => {
      const { primary, fallback, databaseUrl, postMany, settled } = await startTestStack({
        env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '8' },
      });
      primary.set({ delayMs: 5 });
      const posts = postMany(300);
      for (let share = 1; share <= 6; share += 1) {
        await primary.waitFor(({ payments }) => payments.size >= share * 40, PATIENCE_MS);
        await sql(
          databaseUrl,
          'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()',
        );
      }
      await posts;
      expect((await settled()).primary.size).to.equal(300);
      expect(fallback.requests.total).to.equal(0);
    },
  });
});
