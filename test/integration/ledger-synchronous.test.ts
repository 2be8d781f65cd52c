import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { startPostgres } from '../../dev/local/postgres.ts';
import type { ManagedServer } from '../../dev/local/processes.ts';
import { LedgerUnavailableError } from '../../src/errors.ts';
import { createArchive } from '../../src/ledger/archive.ts';
import { createLedgerByHand } from '../../src/ledger/by-hand.ts';
import { createDb, query } from '../../src/ledger/db.ts';
import { createDeadLetters, type DeadLetter } from '../../src/ledger/dead-letters.ts';
import { createLedger, type PaidPayment } from '../../src/ledger/ledger.ts';
import { warnWithoutStandby } from '../../src/ledger/warn-without-standby.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { recordingLogger } from '../support/logger.ts';
import { freshDatabase, sql, startTestPostgres } from '../support/services.ts';
import { setSynchronousStandbys, waitingCommit, waitingCommits } from '../support/synchronous-standby.ts';

/** A name that no standby has. */
const NOBODY = 'nobody';

function paid(): PaidPayment {
  return { correlationId: randomUUID(), gateway: 'primary', amountCents: 1990, requestedAt: new Date() };
}

function ledgerAt(url: string) {
  const db = createDb({ url, poolSize: 4, ssl: false });
  atTestEnd(() => db.destroy());
  const deadLetters = createDeadLetters(db, { maxInvalid: 1 });
  return {
    db,
    deadLetters,
    recordByHand: (payment: PaidPayment) => createLedgerByHand(db).record(payment, 'anna'),
    table: createLedger(db),
    isRecorded: async (id: string) => (await deadLetters.lookUp([id])).get(id)!.isRecorded,
  };
}

/** Undefined when it has succeeded. @throws any other error than that the ledger is unavailable */
async function unavailability(statement: Promise<unknown>): Promise<LedgerUnavailableError | undefined> {
  try {
    await statement;
    return undefined;
  } catch (error) {
    if (error instanceof LedgerUnavailableError) return error;
    throw error;
  }
}

/** Whether others see its row. */
const isVisible = async (url: string, { correlationId }: PaidPayment) =>
  (await sql(url, 'SELECT FROM payments WHERE correlation_id = $1', [correlationId])).length === 1;

describe('sessions of the ledger', function () {
  this.timeout(30_000);

  it('commit synchronously, whatever the defaults of the server, the database and the user are', async () => {
    const postgres = await startPostgres({ settings: { fsync: 'off', synchronous_commit: 'off' } });
    atTestEnd(() => postgres.dispose());
    await sql(postgres.url, 'ALTER DATABASE postgres SET synchronous_commit = local');
    await sql(postgres.url, 'CREATE ROLE relay LOGIN');
    await sql(postgres.url, 'ALTER ROLE relay SET synchronous_commit = off');
    const url = new URL(postgres.url);
    for (const user of ['postgres', 'relay']) {
      url.username = user;
      const { db } = ledgerAt(url.href);
      expect(await query(db, 'SHOW synchronous_commit')).to.deep.equal([{ synchronous_commit: 'on' }]);
    }
  });
});

describe('a ledger whose synchronous standby is down', function () {
  this.timeout(30_000);
  let postgres: ManagedServer;
  let url: string;
  before(async () => {
    postgres = await startTestPostgres();
  });
  after(() => postgres.dispose());
  beforeEach(async () => {
    await setSynchronousStandbys(postgres.url, '');
    url = await freshDatabase(postgres);
  });

  it('does not respond to an insert, and has recorded it once the standby is not needed any more', async () => {
    const { table } = ledgerAt(url);
    const payment = paid();
    await setSynchronousStandbys(url, NOBODY);
    expect(await unavailability(table.insertPayments([payment]))).to.not.equal(undefined);
    expect(await isVisible(url, payment)).to.equal(false);
    await setSynchronousStandbys(url, '');
    await table.insertPayments([payment]);
    expect(await isVisible(url, payment)).to.equal(true);
  });

  for (const [how, end] of [
    ['cancelled', 'pg_cancel_backend'],
    ['ended with its connection', 'pg_terminate_backend'],
  ] as const) {
    it(`does not count a payment as recorded whose wait was ${how}, although its row is visible`, async () => {
      const { table, isRecorded, recordByHand } = ledgerAt(url);
      const payment = paid();
      await setSynchronousStandbys(url, NOBODY);
      const inserted = unavailability(table.insertPayments([payment]));
      await sql(url, `SELECT ${end}($1)`, [await waitingCommit(url)]);
      expect(await inserted).to.not.equal(undefined);
      expect(await isVisible(url, payment)).to.equal(true);
      expect(await unavailability(table.insertPayments([payment]))).to.not.equal(undefined);
      expect(await unavailability(isRecorded(payment.correlationId))).to.not.equal(undefined);
      expect(await unavailability(recordByHand(payment))).to.not.equal(undefined);
      await setSynchronousStandbys(url, '');
      await table.insertPayments([payment]);
      expect(await isRecorded(payment.correlationId)).to.equal(true);
    });
  }

  it('does not count a payment as recorded that waited when PostgreSQL restarted', async () => {
    const { table, isRecorded } = ledgerAt(url);
    const payment = paid();
    await setSynchronousStandbys(url, NOBODY);
    const inserted = unavailability(table.insertPayments([payment]));
    await waitingCommit(url);
    await postgres.kill();
    expect(await inserted).to.not.equal(undefined);
    await postgres.start();
    expect(await isVisible(url, payment)).to.equal(true);
    expect(await unavailability(table.insertPayments([payment]))).to.not.equal(undefined);
    expect(await unavailability(isRecorded(payment.correlationId))).to.not.equal(undefined);
    await setSynchronousStandbys(url, '');
    expect(await isRecorded(payment.correlationId)).to.equal(true);
  });

  it('does not count a dead letter as kept whose wait was cancelled', async () => {
    const { deadLetters } = ledgerAt(url);
    const letter: DeadLetter = {
      jobId: '17',
      correlationId: undefined,
      amountText: undefined,
      payload: undefined,
      code: 'payload_missing',
      reason: 'evicted',
      gateway: undefined,
      attempts: 1,
      acceptedAt: new Date(),
    };
    await setSynchronousStandbys(url, NOBODY);
    const buried = unavailability(deadLetters.bury([letter]));
    await sql(url, 'SELECT pg_cancel_backend($1)', [await waitingCommit(url)]);
    expect(await buried).to.not.equal(undefined);
    expect(await unavailability(deadLetters.areBuried([letter]))).to.not.equal(undefined);
    await setSynchronousStandbys(url, '');
    expect(await deadLetters.areBuried([letter])).to.deep.equal([true]);
  });

  it('does not count a payment as recorded whose move to the archive was cancelled, until the standby has it', async () => {
    const { db, table, isRecorded } = ledgerAt(url);
    const payment = paid();
    await table.insertPayments([payment]);
    await setSynchronousStandbys(url, NOBODY);
    const moved = unavailability(createArchive(db).moveBatch({ from: undefined, before: new Date('2100-01-01') }));
    await sql(url, 'SELECT pg_cancel_backend($1)', [await waitingCommit(url)]);
    expect(await moved).to.not.equal(undefined);
    expect(await sql(url, 'SELECT FROM payments_archive')).to.have.length(1);
    expect(await unavailability(table.insertPayments([payment]))).to.not.equal(undefined);
    expect(await unavailability(isRecorded(payment.correlationId))).to.not.equal(undefined);
    await setSynchronousStandbys(url, '');
    expect(await isRecorded(payment.correlationId)).to.equal(true);
    await table.insertPayments([payment]);
    expect(await isVisible(url, payment)).to.equal(false);
  });

  it('does not say that a purge has succeeded whose wait was cancelled', async () => {
    const { table } = ledgerAt(url);
    await setSynchronousStandbys(url, NOBODY);
    const purged = unavailability(table.purge());
    await sql(url, 'SELECT pg_cancel_backend($1)', [await waitingCommit(url)]);
    expect(await purged).to.not.equal(undefined);
  });

  it('still looks up payments that it does not have', async () => {
    const { isRecorded } = ledgerAt(url);
    await setSynchronousStandbys(url, NOBODY);
    expect(await isRecorded(randomUUID())).to.equal(false);
  });

  it('has no more than two backends that wait, however often a payment is tried again', async () => {
    const { table, isRecorded } = ledgerAt(url);
    const [visible, other] = [paid(), paid()];
    await table.insertPayments([visible]);
    await setSynchronousStandbys(url, NOBODY);
    for (let tries = 1; tries <= 3; tries += 1) {
      await Promise.all([
        unavailability(table.insertPayments([visible])),
        unavailability(table.insertPayments([other])),
        unavailability(isRecorded(visible.correlationId)),
      ]);
    }
    expect(await waitingCommits(url)).to.have.length(2);
  });

  it('confirms what is recorded with no other rights than those to its tables', async () => {
    const role = `role_${randomUUID().replaceAll('-', '')}`;
    await sql(url, `CREATE ROLE ${role} LOGIN`);
    await sql(url, `GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO ${role}`);
    const own = new URL(url);
    own.username = role;
    const { table, isRecorded } = ledgerAt(own.href);
    const payment = paid();
    await table.insertPayments([payment]);
    await table.insertPayments([payment]);
    expect(await isRecorded(payment.correlationId)).to.equal(true);
  });
});

describe('warnWithoutStandby', function () {
  this.timeout(30_000);

  const codesAt = async (url: string) => {
    const { logger, entries } = recordingLogger();
    await warnWithoutStandby(ledgerAt(url).db, logger);
    return entries.map(({ level, code }) => `${level} ${code}`);
  };

  it('warns of a server whose COMMITs wait for no standby, and of no other', async () => {
    const postgres = await startTestPostgres();
    atTestEnd(() => postgres.dispose());
    expect(await codesAt(postgres.url)).to.deep.equal(['warn no_standby']);
    await setSynchronousStandbys(postgres.url, NOBODY);
    expect(await codesAt(postgres.url)).to.deep.equal([]);
    await postgres.stop();
    expect(await codesAt(postgres.url)).to.deep.equal([]);
  });
});
