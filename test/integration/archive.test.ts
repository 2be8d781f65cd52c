import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import pg from 'pg';
import { freePort } from '../../dev/local/ports.ts';
import { loadConfig } from '../../src/config.ts';
import { LedgerUnavailableError } from '../../src/errors.ts';
import { createArchive } from '../../src/ledger/archive.ts';
import { createLedgerByHand } from '../../src/ledger/by-hand.ts';
import { createDb } from '../../src/ledger/db.ts';
import { createDeadLetters } from '../../src/ledger/dead-letters.ts';
import { createLedger, type PaidPayment } from '../../src/ledger/ledger.ts';
import { rollBack } from '../../src/ledger/migrations.ts';
import { createOpenDeadLetters } from '../../src/ledger/open-dead-letters.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { rejectedLetter } from '../support/dead-letters.ts';
import { aPayment, eventually, postPayment, testApi, testGateway, testRedis, testWorker } from '../support/relay.ts';
import { freshDatabase, freshPrefix, sql } from '../support/services.ts';

const NOON = new Date('2025-07-15T12:00:00.000Z');
/** Beyond every record of a test. */
const EVER = new Date('2100-01-01T00:00:00.000Z');

function paid(fields: Partial<PaidPayment> = {}): PaidPayment {
  return { correlationId: randomUUID(), gateway: 'primary', amountCents: 1990, requestedAt: NOON, ...fields };
}

async function stage() {
  const url = await freshDatabase();
  const db = createDb({ url, poolSize: 6, ssl: false });
  atTestEnd(() => db.destroy());
  const archive = createArchive(db);
  const idsIn = async (table: 'payments' | 'payments_archive') =>
    (await sql<{ id: string }>(url, `SELECT correlation_id AS id FROM ${table}`)).map(({ id }) => id);
  return {
    url,
    db,
    archive,
    ledger: createLedger(db),
    deadLetters: createDeadLetters(db, { maxInvalid: 10 }),
    idsIn,
    /** Records payments and moves them to the archive. */
    async archived(payments: readonly PaidPayment[]) {
      await createLedger(db).insertPayments(payments);
      await archive.moveBatch({ from: undefined, before: EVER });
      expect(await idsIn('payments')).to.deep.equal([]);
    },
  };
}

const totals = (totalRequests: number, totalAmountCents: number) => ({ totalRequests, totalAmountCents });

describe('an archived payment', function () {
  this.timeout(20_000);

  it('is found before a send, and is in the status with all that was recorded', async () => {
    const { ledger, deadLetters, archived } = await stage();
    const [payment, other] = [paid({ gateway: 'fallback' }), paid()];
    await ledger.insertPayments([payment]);
    const before = await ledger.find([payment.correlationId]);
    await archived([payment]);
    const found = await deadLetters.lookUp([payment.correlationId, other.correlationId]);
    expect(found.get(payment.correlationId)).to.deep.equal({ isRecorded: true, tiedTo: undefined });
    expect(found.get(other.correlationId)).to.deep.equal({ isRecorded: false, tiedTo: undefined });
    expect(await ledger.find([payment.correlationId])).to.deep.equal(before);
    expect(before.get(payment.correlationId)?.recorded).to.include({ gateway: 'fallback', amountCents: 1990 });
  });

  it('is found while it moves, at every moment in exactly one table', async () => {
    const { ledger, deadLetters, archive } = await stage();
    const payments = Array.from({ length: 3_000 }, () => paid());
    await ledger.insertPayments(payments);
    const ids = payments.slice(0, 200).map(({ correlationId }) => correlationId);
    let isMoving = true;
    const looking = (async () => {
      let looks = 0;
      for (; isMoving || looks === 0; looks += 1) {
        const found = await deadLetters.lookUp(ids);
        expect([...found.values()].filter(({ isRecorded }) => !isRecorded)).to.deep.equal([]);
        expect((await ledger.summarise({})).primary).to.deep.equal(totals(3_000, 3_000 * 1990));
      }
    })();
    while (await archive.moveBatch({ from: undefined, before: EVER }));
    isMoving = false;
    await looking;
  });

  it('is not recorded again, whatever else is said of it, and the others of its batch are', async () => {
    const { ledger, archived, idsIn } = await stage();
    const [payment, other] = [paid(), paid({ amountCents: 5 })];
    await archived([payment]);
    await ledger.insertPayments([{ ...payment, gateway: 'fallback', amountCents: 7 }, other]);
    expect(await idsIn('payments')).to.deep.equal([other.correlationId]);
    expect(await ledger.summarise({})).to.deep.include({ primary: totals(2, 1995), fallback: totals(0, 0) });
  });

  for (const end of ['COMMIT', 'ROLLBACK'] as const) {
    it(`is recorded once when it is recorded again while it moves, before the ${end}`, async () => {
      const { url, ledger, idsIn } = await stage();
      const payment = paid();
      await ledger.insertPayments([payment]);
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      atTestEnd(() => client.end());
      await client.query('BEGIN');
      await client.query(
        'WITH moved AS (DELETE FROM payments RETURNING *) INSERT INTO payments_archive SELECT * FROM moved',
      );
      const again = ledger.insertPayments([payment]);
      await eventually(async () => {
        const waiting = `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`;
        return (await sql(url, waiting)).length > 0;
      });
      await client.query(end);
      await again;
      const isMoved = end === 'COMMIT';
      expect(await idsIn('payments')).to.have.length(isMoved ? 0 : 1);
      expect(await idsIn('payments_archive')).to.have.length(isMoved ? 1 : 0);
      expect((await ledger.summarise({})).primary).to.deep.equal(totals(1, 1990));
    });
  }

  it('is paid for its dead letters: one that comes late, and those that an operator retries', async () => {
    const { url, db, deadLetters, archived } = await stage();
    const payment = paid();
    await archived([payment]);
    const { correlationId } = payment;
    await deadLetters.bury([rejectedLetter(correlationId)]);
    const states = () => sql<{ state: string }>(url, 'SELECT state FROM dead_letters');
    expect(await states()).to.deep.equal([{ state: 'paid' }]);
    // As if both had been committed so close together that neither saw the other.
    await sql(url, "UPDATE dead_letters SET state = 'open'");
    expect([...(await createOpenDeadLetters(db).paidOf([correlationId]))]).to.deep.equal([correlationId]);
    await deadLetters.lookUp([correlationId]);
    expect(await states()).to.deep.equal([{ state: 'paid' }]);
  });

  it('is the row that a record by hand is compared with', async () => {
    const { db, archived, idsIn } = await stage();
    const payment = paid({ gateway: 'fallback' });
    await archived([payment]);
    const row = await createLedgerByHand(db).record({ ...payment, gateway: 'primary', amountCents: 1 }, 'anna');
    expect(row).to.deep.equal(payment);
    expect(await idsIn('payments')).to.deep.equal([]);
  });

  it('is not paid again when it was paid at the fallback and is posted again', async () => {
    const prefix = freshPrefix();
    const [primary, fallback] = [await testGateway(), await testGateway()];
    const { url, config } = await testApi({}, prefix);
    const env = {
      DATABASE_URL: config.database.url,
      GATEWAY_FALLBACK_URL: fallback.url,
      FALLBACK_ON: 'not_sent',
      FALLBACK_AFTER_MS: '500',
    };
    const payment = aPayment();
    await postPayment(url, payment);
    const first = await testWorker({ ...env, GATEWAY_PRIMARY_URL: `http://127.0.0.1:${await freePort()}` }, prefix);
    await eventually(async () => (await sql(config.database.url, 'SELECT 1 FROM payments')).length === 1);
    await first.close();
    expect(fallback.payments.has(payment.correlationId)).to.equal(true);
    const db = createDb(config.database);
    atTestEnd(() => db.destroy());
    await createArchive(db).moveBatch({ from: undefined, before: EVER });

    expect((await postPayment(url, payment)).status).to.equal(204);
    await testWorker({ ...env, GATEWAY_PRIMARY_URL: primary.url }, prefix);
    const redis = await testRedis();
    await eventually(async () => (await redis.keys(`${prefix}:payments:????????-*`)).length === 0);
    expect(primary.requests.total).to.equal(0);
    expect(await sql(config.database.url, 'SELECT 1 FROM payments')).to.deep.equal([]);
    const status = await (await fetch(`${url}/payments/${payment.correlationId}`)).json();
    expect(status).to.include({ state: 'paid', gateway: 'fallback' });
  });

  it('leaves with a purge, and returns to the others with a rollback of the migration', async () => {
    const { url, ledger, archived } = await stage();
    const payments = [paid(), paid({ gateway: 'fallback' })];
    await archived(payments);
    await ledger.purge();
    expect(await sql(url, 'SELECT * FROM recorded_payments')).to.deep.equal([]);
    expect(await ledger.summarise({})).to.deep.equal({ primary: totals(0, 0), fallback: totals(0, 0) });

    await archived(payments);
    const { database } = loadConfig({ DATABASE_URL: url });
    expect(await rollBack(database, 'keep')).to.deep.equal({ rowsAtStake: { payments_archive: 2 } });
    const { down } = await import('../../migrations/20261128000000_create_payments_archive.ts');
    const db = createDb(database);
    atTestEnd(() => db.destroy());
    await down(db);
    const rows = await sql(url, 'SELECT correlation_id FROM payments');
    expect(rows).to.have.deep.members(payments.map(({ correlationId }) => ({ correlation_id: correlationId })));
    expect(await sql(url, 'SELECT payments FROM payment_totals WHERE width_seconds = 1')).to.deep.equal([
      { payments: '1' },
      { payments: '1' },
    ]);
  });
});

describe('summaries over archived time', () => {
  it('are what adding up the payments of both tables gives, for any range', async () => {
    const { url, archive, ledger } = await stage();
    const somePayment = () =>
      paid({
        gateway: Math.random() < 0.5 ? 'primary' : 'fallback',
        requestedAt: new Date(NOON.getTime() + Math.floor(Math.random() * 7_200_000)),
      });
    await ledger.insertPayments(Array.from({ length: 1_500 }, somePayment));
    await sql(url, 'UPDATE payments SET recorded_at = requested_at');
    const before = new Date(NOON.getTime() + 3_600_500);
    while (await archive.moveBatch({ from: undefined, before }));
    // Of archived time, and recorded since.
    await ledger.insertPayments(Array.from({ length: 100 }, somePayment));
    const archivedUntil = (await sql<{ at: Date }>(url, 'SELECT max(requested_at) AS at FROM payments_archive'))[0]!.at;
    expect(archivedUntil.getTime()).to.be.within(NOON.getTime(), before.getTime() - 1);
    for (let n = 0; n < 40; n += 1) {
      const [a, b] = [somePayment(), somePayment()].map(({ requestedAt }) => requestedAt.getTime());
      const [from, to] = [new Date(Math.min(a!, b!)), new Date(Math.max(a!, b!))];
      const rows = await sql<{ gateway: string; n: string; cents: string }>(
        url,
        `SELECT gateway, count(*) AS n, sum(amount_cents) AS cents FROM recorded_payments
         WHERE requested_at BETWEEN $1 AND $2 GROUP BY 1`,
        [from, to],
      );
      const added = (gateway: string) => {
        const row = rows.find((each) => each.gateway === gateway);
        return totals(Number(row?.n ?? 0), Number(row?.cents ?? 0));
      };
      expect(await ledger.summarise({ from, to }), `${from.toISOString()} ${to.toISOString()}`).to.deep.equal({
        primary: added('default'),
        fallback: added('fallback'),
        ...(from <= archivedUntil && { archivedUntil }),
      });
    }
  });

  it('follow archived payments that are corrected or removed by hand', async () => {
    const { url, ledger, archived } = await stage();
    const [corrected, removed, kept] = [paid(), paid(), paid()];
    await archived([corrected, removed, kept]);
    await sql(url, 'UPDATE payments_archive SET amount_cents = 7 WHERE correlation_id = $1', [corrected.correlationId]);
    await sql(url, 'DELETE FROM payments_archive WHERE correlation_id = $1', [removed.correlationId]);
    expect((await ledger.summarise({})).primary).to.deep.equal(totals(2, 1997));
  });
});

describe('the move to the archive', () => {
  it('takes what was requested and recorded before the bound, the oldest first, in batches', async () => {
    const { url, archive, ledger } = await stage();
    const at = (minutes: number) => new Date(NOON.getTime() + minutes * 60_000);
    await ledger.insertPayments(Array.from({ length: 1_200 }, (_, n) => paid({ requestedAt: at(n) })));
    await sql(url, 'UPDATE payments SET recorded_at = requested_at');
    // Requested long ago, recorded now.
    const late = paid({ requestedAt: at(-60) });
    await ledger.insertPayments([late]);
    const before = at(1_100);
    const { oldPayments, payments } = await archive.measure(before);
    expect({ oldPayments, payments }).to.deep.equal({ oldPayments: 1_100, payments: 1_201 });
    const first = await archive.moveBatch({ from: undefined, before });
    expect(first).to.deep.equal({ payments: 1_000, until: at(999) });
    expect(await archive.moveBatch({ from: first!.until, before })).to.deep.equal({ payments: 100, until: at(1_099) });
    expect(await archive.moveBatch({ from: at(1_099), before })).to.equal(undefined);
    const left = await sql<{ n: string }>(url, 'SELECT count(*) AS n FROM payments');
    expect(left).to.deep.equal([{ n: '101' }]);
    expect((await ledger.find([late.correlationId])).get(late.correlationId)?.recorded).to.not.equal(undefined);
  });

  it('passes over a row that somebody has locked', async () => {
    const { url, archive, ledger, idsIn } = await stage();
    const [locked, free] = [paid(), paid()];
    await ledger.insertPayments([locked, free]);
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    atTestEnd(() => client.end());
    await client.query('BEGIN');
    await client.query('SELECT FROM payments WHERE correlation_id = $1 FOR UPDATE', [locked.correlationId]);
    await archive.moveBatch({ from: undefined, before: EVER });
    expect(await idsIn('payments_archive')).to.deep.equal([free.correlationId]);
    await client.query('COMMIT');
    await archive.moveBatch({ from: undefined, before: EVER });
    expect(await idsIn('payments_archive')).to.have.members([free.correlationId, locked.correlationId]);
  });

  it('by two at once, beside recorders that repeat, keeps each payment once and the totals exact', async () => {
    const { url, archive, ledger, idsIn } = await stage();
    const payments = Array.from({ length: 3_000 }, (_, n) =>
      paid({ requestedAt: new Date(NOON.getTime() + n * 100), amountCents: 1 }),
    );
    await ledger.insertPayments(payments.slice(0, 2_000));
    /** A deadlock or a lock timeout ends a statement, which its caller repeats. */
    const insisting = async <T>(act: () => Promise<T>): Promise<T> => {
      for (;;) {
        try {
          return await act();
        } catch (error) {
          expect(error).to.be.instanceOf(LedgerUnavailableError);
        }
      }
    };
    const move = async () => {
      while (await insisting(() => archive.moveBatch({ from: undefined, before: EVER })));
    };
    const record = async (order: readonly PaidPayment[]) => {
      for (let start = 0; start < order.length; start += 100)
        await insisting(() => ledger.insertPayments(order.slice(start, start + 100)));
    };
    await Promise.all([move(), move(), record(payments), record(payments.toReversed())]);
    await move();
    expect(await idsIn('payments')).to.deep.equal([]);
    const ids = await idsIn('payments_archive');
    expect(ids).to.have.length(3_000);
    expect(new Set(ids)).to.deep.equal(new Set(payments.map(({ correlationId }) => correlationId)));
    expect((await ledger.summarise({})).primary).to.deep.equal(totals(3_000, 3_000));
    const [seconds] = await sql<{ n: string }>(
      url,
      'SELECT sum(payments) AS n FROM payment_totals WHERE width_seconds = 1',
    );
    expect(seconds).to.deep.equal({ n: '3000' });
  }).timeout(30_000);
});
