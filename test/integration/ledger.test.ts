import { type ExecFileException, execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { freePort } from '../../dev/local/ports.ts';
import { loadConfig } from '../../src/config.ts';
import { BusyError, LedgerUnavailableError, PoolBusyError } from '../../src/errors.ts';
import { createDb, query } from '../../src/ledger/db.ts';
import { createDeadLetters } from '../../src/ledger/dead-letters.ts';
import { createLedger, type Ledger, type PaidPayment } from '../../src/ledger/ledger.ts';
import { migrateToLatest } from '../../src/ledger/migrations.ts';
import { MAX_AMOUNT_CENTS } from '../../src/payment.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { eventually } from '../support/relay.ts';
import { freshDatabase, holdTable, sharedPostgres, sql, startTestPostgres } from '../support/services.ts';

const NOON = new Date('2025-07-15T12:00:00.000Z');
const EVERYTHING = {};

function paid(fields: Partial<PaidPayment> = {}): PaidPayment {
  return { correlationId: randomUUID(), gateway: 'primary', amountCents: 1990, requestedAt: NOON, ...fields };
}

/** A ledger over this database, by default an empty one. */
async function ledger(url?: string): Promise<{ table: Ledger; db: Knex; url: string }> {
  const databaseUrl = url ?? (await freshDatabase());
  const db = createDb({ url: databaseUrl, poolSize: 2, ssl: false });
  atTestEnd(() => db.destroy());
  return { table: createLedger(db), db, url: databaseUrl };
}

/** The same for a suite whose tests only use its rows: one database, emptied before each, saves time. */
function ledgerOfSuite(): () => ReturnType<typeof ledger> {
  let url: string;
  before(async () => {
    url = await freshDatabase();
  });
  beforeEach(() => sql(url, 'TRUNCATE payments'));
  return () => ledger(url);
}

const rowsOf = (url: string) =>
  sql<{ correlation_id: string; gateway: string; amount_cents: string; requested_at: Date; recorded_at: Date }>(
    url,
    'SELECT * FROM payments ORDER BY amount_cents',
  );

async function failureOf(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('it did not fail');
}

/** What the cause of an unavailable ledger is, by its SQLSTATE or its code. */
async function unavailableBecause(promise: Promise<unknown>): Promise<string | undefined> {
  const error = await failureOf(promise);
  expect(error, String(error)).to.be.instanceOf(LedgerUnavailableError);
  return (error.cause as { code?: string }).code;
}

/**
 * Inserts as the recorder does, again and again. A connection that the server has ended stays in the pool until its end
 * has been read, which may be after the next statement has taken it.
 */
const insertOnceAvailable = (table: Ledger, payment: PaidPayment) =>
  eventually(async () => {
    try {
      await table.insertPayments([payment]);
      return true;
    } catch (error) {
      expect(error).to.be.instanceOf(LedgerUnavailableError);
      return false;
    }
  });

/** Resolves with the server process that waits for the held table. */
const waitingBackend = (url: string) =>
  eventually(async () => {
    const [backend] = await sql<{ pid: number }>(
      url,
      `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
    );
    return backend?.pid;
  });

describe('payments table', () => {
  const ledger = ledgerOfSuite();

  it('records a payment with all that is known of it', async () => {
    const { table, url } = await ledger();
    const payment = paid({ gateway: 'fallback', amountCents: 1, requestedAt: new Date('2025-07-15T12:00:00.123Z') });
    const earliest = Date.now() - 60_000;
    await table.insertPayments([payment]);
    const [row] = await rowsOf(url);
    const { recorded_at, ...rest } = row!;
    expect(rest).to.deep.equal({
      correlation_id: payment.correlationId,
      gateway: 'fallback',
      amount_cents: '1',
      requested_at: payment.requestedAt,
    });
    expect(recorded_at.getTime()).to.be.greaterThan(earliest);
  });

  it('leaves a payment as it is when it is recorded again, whatever else is said of it', async () => {
    const { table, url } = await ledger();
    const first = paid();
    await table.insertPayments([first]);
    const before = await rowsOf(url);
    await table.insertPayments([first]);
    await table.insertPayments([
      { ...first, gateway: 'fallback', amountCents: 1, requestedAt: new Date() },
      { ...first, correlationId: first.correlationId.toUpperCase() },
    ]);
    expect(await rowsOf(url)).to.deep.equal(before);
  });

  it('records a payment that is in a batch twice once, and the others of the batch', async () => {
    const { table, url } = await ledger();
    const [first, second] = [paid({ amountCents: 1 }), paid({ amountCents: 2 })];
    await table.insertPayments([first, second, { ...first, amountCents: 3 }]);
    expect((await rowsOf(url)).map(({ amount_cents }) => amount_cents)).to.deep.equal(['1', '2']);
  });

  it('records a payment once that is recorded from many sides at once', async () => {
    const { table } = await ledger();
    const payments = Array.from({ length: 50 }, () => paid());
    // In both orders, so that two of them can wait for one another: PostgreSQL ends one, which has to try again.
    const record = async (batch: readonly PaidPayment[]): Promise<void> =>
      table.insertPayments(batch).catch((error) => {
        expect(error).to.be.instanceOf(LedgerUnavailableError);
        return record(batch);
      });
    await Promise.all(Array.from({ length: 8 }, (_, i) => record(i % 2 ? payments : payments.toReversed())));
    expect((await table.summarise(EVERYTHING)).primary).to.deep.equal({ totalRequests: 50, totalAmountCents: 99_500 });
  });

  it('records 500 payments in one statement', async () => {
    const { table } = await ledger();
    const payments = Array.from({ length: 500 }, (_, i) => paid({ gateway: i % 2 ? 'primary' : 'fallback' }));
    await table.insertPayments(payments);
    expect(await table.summarise(EVERYTHING)).to.deep.equal({
      primary: { totalRequests: 250, totalAmountCents: 250 * 1990 },
      fallback: { totalRequests: 250, totalAmountCents: 250 * 1990 },
    });
  });

  it('records nothing when it is given nothing', async () => {
    const { table, url } = await ledger();
    await table.insertPayments([]);
    expect(await rowsOf(url)).to.deep.equal([]);
  });

  it('keeps the largest amount to the cent', async () => {
    const { table } = await ledger();
    await table.insertPayments([paid({ amountCents: MAX_AMOUNT_CENTS - 1 })]);
    expect((await table.summarise(EVERYTHING)).primary.totalAmountCents).to.equal(MAX_AMOUNT_CENTS - 1);
    await table.insertPayments([paid({ amountCents: MAX_AMOUNT_CENTS })]);
    expect((await table.summarise(EVERYTHING)).primary.totalAmountCents).to.equal(2 * MAX_AMOUNT_CENTS - 1);
  });

  it('adds up more than a bigint holds', async () => {
    const { table } = await ledger();
    await table.insertPayments(Array.from({ length: 3000 }, () => paid({ amountCents: MAX_AMOUNT_CENTS })));
    const { totalRequests, totalAmountCents } = (await table.summarise(EVERYTHING)).primary;
    expect(totalRequests).to.equal(3000);
    expect(totalAmountCents).to.equal(3000 * MAX_AMOUNT_CENTS);
  });

  it('summarises both ends included, and without an end everything on that side', async () => {
    const { table } = await ledger();
    const times = [-1000, -1, 0, 1, 1000].map((ms) => new Date(NOON.getTime() + ms));
    await table.insertPayments(times.map((requestedAt) => paid({ requestedAt })));
    const count = async (from?: Date, to?: Date) => (await table.summarise({ from, to })).primary.totalRequests;
    expect(await count()).to.equal(5);
    expect(await count(NOON)).to.equal(3);
    expect(await count(undefined, NOON)).to.equal(3);
    expect(await count(NOON, NOON)).to.equal(1);
    expect(await count(times[1], times[3])).to.equal(3);
    expect(await count(times[4], times[0])).to.equal(0);
  });

  it('has room for requestedAt of a gateway whose clock is far off', async () => {
    const { table } = await ledger();
    const dates = ['0001-01-01T00:00:00.000Z', '1970-01-01T00:00:00.000Z', '9999-12-31T23:59:59.999Z'];
    await table.insertPayments(dates.map((date) => paid({ requestedAt: new Date(date) })));
    expect((await table.summarise(EVERYTHING)).primary.totalRequests).to.equal(3);
  });

  it('is empty after a purge', async () => {
    const { table, url } = await ledger();
    const payment = paid();
    await table.insertPayments([payment, paid()]);
    await sql(
      url,
      `INSERT INTO dead_letters (job_id, reason_code, reason, attempts, accepted_at, died_at, state_by)
       VALUES ('17', 'invalid_payment', 'amount', 1, now(), now(), 'worker')`,
    );
    await table.purge();
    expect(await rowsOf(url)).to.deep.equal([]);
    expect(await sql(url, 'SELECT id FROM dead_letters')).to.deep.equal([]);
    await table.insertPayments([payment]);
    expect(await rowsOf(url)).to.have.length(1);
  });

  it('keeps the results of reconcile in a purge', async () => {
    const { table, url } = await ledger();
    const differences = `default_payments, default_amount_cents, fallback_payments, fallback_amount_cents`;
    await sql(url, `INSERT INTO reconciliations (${differences}) VALUES (0, 0, 0, 0)`);
    await table.purge();
    expect(await sql(url, 'SELECT id FROM reconciliations')).to.have.length(1);
  });

  it('responds to a ping', async () => {
    const { table } = await ledger();
    await table.ping();
  });
});

describe('payments table, when PostgreSQL rejects the payment', () => {
  const ledger = ledgerOfSuite();

  for (const [name, payment, code] of [
    ['a gateway it does not know', paid({ gateway: 'third' as 'primary' }), '23514'],
    ['an amount that is none', paid({ amountCents: 0 }), '23514'],
    ['an id that is no UUID', paid({ correlationId: '42' }), '22P02'],
    ['an amount that is no whole number', paid({ amountCents: 0.5 }), '22P02'],
  ] as const) {
    it(`throws PostgreSQL's own error for ${name}, and records nothing of the batch`, async () => {
      const { table, url } = await ledger();
      const error = await failureOf(table.insertPayments([paid(), payment]));
      expect(error).to.not.be.instanceOf(LedgerUnavailableError);
      expect(error).to.include({ code });
      expect(await rowsOf(url)).to.deep.equal([]);
    });
  }
});

describe('payments table, when PostgreSQL is unavailable', () => {
  it('throws LedgerUnavailableError from every call while the server is stopped, and works once it is back', async () => {
    const postgres = await startTestPostgres();
    atTestEnd(() => postgres.dispose());
    const { table } = await ledger(await freshDatabase(postgres));
    const payment = paid();
    await table.insertPayments([payment]);
    await postgres.stop();
    for (const call of [
      () => table.insertPayments([paid()]),
      () => table.summarise(EVERYTHING),
      () => table.purge(),
      () => table.ping(),
    ]) {
      await unavailableBecause(call());
    }
    await postgres.start();
    expect((await table.summarise(EVERYTHING)).primary.totalRequests).to.equal(1);
  });

  it('throws LedgerUnavailableError when its connection is terminated during a statement', async () => {
    const { table, url } = await ledger();
    const release = await holdTable(url);
    const payment = paid();
    const failed = unavailableBecause(table.insertPayments([payment]));
    await sql(url, 'SELECT pg_terminate_backend($1)', [await waitingBackend(url)]);
    expect(await failed).to.equal('57P01');
    await release();
    await insertOnceAvailable(table, payment);
    expect(await rowsOf(url)).to.have.length(1);
  });

  it('throws LedgerUnavailableError when its statement is cancelled', async () => {
    const { table, url } = await ledger();
    const release = await holdTable(url);
    const failed = unavailableBecause(table.summarise(EVERYTHING));
    await sql(url, 'SELECT pg_cancel_backend($1)', [await waitingBackend(url)]);
    expect(await failed).to.equal('57014');
    await release();
    await table.summarise(EVERYTHING);
  });

  it('throws LedgerUnavailableError when a table stays locked, because PostgreSQL gives up before our side does', async () => {
    const { table, url } = await ledger();
    const release = await holdTable(url);
    const startedAt = performance.now();
    const calls = [table.summarise(EVERYTHING), table.insertPayments([paid()])];
    expect(await Promise.all(calls.map(unavailableBecause))).to.deep.equal(['55P03', '55P03']);
    expect(performance.now() - startedAt).to.be.within(1_400, 3_000);
    await release();
    await table.summarise(EVERYTHING);
  });

  it('throws LedgerUnavailableError when a statement takes too long, and PostgreSQL has ended it', async () => {
    const { db } = await ledger();
    expect(await unavailableBecause(query(db, 'SELECT pg_sleep(5)'))).to.equal('57014');
  });

  it('never has more backends than its pool, however many calls give up while a table is locked', async () => {
    const { table, db, url } = await ledger();
    const deadLetters = createDeadLetters(db, { maxInvalid: 1 });
    const release = await holdTable(url);
    const until = performance.now() + 4_000;
    const backends: number[] = [];
    // As with requests: the next call follows each one that gave up.
    const callers = Array.from({ length: 4 }, async () => {
      while (performance.now() < until) {
        await unavailableBecause(deadLetters.lookUp([randomUUID()]));
        const [row] = await sql<{ count: string }>(
          url,
          `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'payrelay'`,
        );
        backends.push(Number(row!.count));
      }
    });
    await Promise.all(callers);
    expect(backends).to.have.length.above(4);
    expect(Math.max(...backends)).to.equal(2);
    await release();
    await insertOnceAvailable(table, paid());
  });

  it('throws BusyError from a summary, not LedgerUnavailableError, when others hold all connections of its own pool', async () => {
    const { table, db } = await ledger();
    const holders = [await db.transaction(), await db.transaction()];
    const [summary, lookUp] = await Promise.all([
      failureOf(table.summarise(EVERYTHING)),
      failureOf(createDeadLetters(db, { maxInvalid: 1 }).lookUp([randomUUID()])),
    ]);
    expect(summary).to.be.instanceOf(BusyError);
    // The worker's statements try again, whatever the reason.
    expect(lookUp).to.be.instanceOf(PoolBusyError).and.instanceOf(LedgerUnavailableError);
    for (const holder of holders) await holder.rollback();
    await table.summarise(EVERYTHING);
  });

  it('works on when its idle connections were terminated', async () => {
    const { table, url } = await ledger();
    await Promise.all([table.ping(), table.ping()]);
    await sql(
      url,
      'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()',
    );
    await insertOnceAvailable(table, paid());
    expect(await rowsOf(url)).to.have.length(1);
  });

  it('throws LedgerUnavailableError when no server listens there', async () => {
    const { table } = await ledger(`postgres://nobody@127.0.0.1:${await freePort()}/none`);
    expect(await unavailableBecause(table.ping())).to.equal('ECONNREFUSED');
  });

  it('throws LedgerUnavailableError when the host has no address', async () => {
    const { table } = await ledger('postgres://nobody@nowhere.invalid/none');
    await unavailableBecause(table.ping());
  });

  it('throws LedgerUnavailableError when there is no such database', async () => {
    const url = new URL(await freshDatabase());
    url.pathname = '/none';
    const { table } = await ledger(url.href);
    expect(await unavailableBecause(table.ping())).to.equal('3D000');
  });

  it('throws LedgerUnavailableError when the schema is missing', async () => {
    const { table } = await ledger((await sharedPostgres()).url);
    expect(await unavailableBecause(table.summarise(EVERYTHING))).to.equal('42P01');
    expect(await table.ping().catch((error: unknown) => error)).to.be.instanceOf(LedgerUnavailableError);
  });

  it('throws LedgerUnavailableError at a ping when a migration has not run', async () => {
    const { table, url } = await ledger();
    const [last] = await sql<{ name: string }>(
      url,
      'DELETE FROM knex_migrations WHERE id = (SELECT max(id) FROM knex_migrations) RETURNING name',
    );
    const error = await table.ping().catch((cause: unknown) => cause);
    expect(error).to.be.instanceOf(LedgerUnavailableError);
    expect((error as Error).message).to.include(last!.name);
  });

  it('responds to a ping of a user that may not read which migrations have run', async () => {
    const url = new URL(await freshDatabase());
    url.username = `role_${randomUUID().replaceAll('-', '')}`;
    await sql((await sharedPostgres()).url, `CREATE ROLE ${url.username} LOGIN`);
    const { table } = await ledger(url.href);
    await table.ping();
  });

  it('throws LedgerUnavailableError when the database is read-only, as a replica is', async () => {
    const { table, url } = await ledger();
    await sql(url, `ALTER DATABASE ${new URL(url).pathname.slice(1)} SET default_transaction_read_only = on`);
    expect(await unavailableBecause(table.insertPayments([paid()]))).to.equal('25006');
    await table.summarise(EVERYTHING);
  });

  for (const [code, name, close] of [
    ['28000', 'its login is taken away', (role: string) => `ALTER ROLE ${role} NOLOGIN`],
    ['53300', 'it may have no more connections', (role: string) => `ALTER ROLE ${role} CONNECTION LIMIT 0`],
    [
      '42501',
      'it may no longer enter the database',
      (_role: string, database: string) => `REVOKE CONNECT ON DATABASE ${database} FROM PUBLIC`,
    ],
    [
      '55000',
      'the database takes no connections',
      (_role: string, database: string) => `ALTER DATABASE ${database} ALLOW_CONNECTIONS false`,
    ],
  ] as const) {
    it(`throws LedgerUnavailableError when ${name}`, async () => {
      const url = new URL(await freshDatabase());
      const admin = (await sharedPostgres()).url;
      const role = `role_${randomUUID().replaceAll('-', '')}`;
      await sql(admin, `CREATE ROLE ${role} LOGIN`);
      await sql(admin, close(role, url.pathname.slice(1)));
      url.username = role;
      const { table } = await ledger(url.href);
      expect(await unavailableBecause(table.ping())).to.equal(code);
    });
  }
});

describe('migrations', () => {
  const projectDir = fileURLToPath(new URL('../..', import.meta.url));
  const run = promisify(execFile);
  /** What `npm run db:…` runs, with nothing set but the database. */
  const script = (databaseUrl: string, file: string, ...args: string[]) =>
    run(process.execPath, [join(projectDir, file), ...args], {
      cwd: projectDir,
      env: { PATH: process.env['PATH'], DATABASE_URL: databaseUrl },
    });
  const migrate = (databaseUrl: string, ...args: string[]) => script(databaseUrl, 'src/commands/migrate.ts', ...args);
  /** A database that is not there yet. */
  const newUrl = async () => {
    const url = new URL((await sharedPostgres()).url);
    url.pathname = `/made_${randomUUID().replaceAll('-', '')}`;
    return url.href;
  };
  const tables = (url: string) => sql(url, `SELECT * FROM pg_tables WHERE tablename = 'payments'`);

  it('make a new database, bring it up, take it down and bring it up again', async () => {
    const url = await newUrl();
    await script(url, 'src/commands/db-create.ts');
    await script(url, 'src/commands/db-create.ts');
    expect(await tables(url)).to.deep.equal([]);
    await migrate(url, 'latest');
    expect(await tables(url)).to.have.length(1);
    await migrate(url, 'rollback');
    expect(await tables(url)).to.deep.equal([]);
    await migrate(url, 'latest');
    expect(await rowsOf(url)).to.deep.equal([]);
    const { table } = await ledger(url);
    await table.insertPayments([paid()]);
  });

  it('are not rolled back over rows without --yes, and their number is said', async () => {
    const { table, url } = await ledger();
    await table.insertPayments([paid(), paid(), paid()]);
    const { code, stderr } = await failureOf(migrate(url, 'rollback')).then((error) => error as ExecFileException);
    expect(code).to.equal(1);
    expect(stderr).to.include('3 in payments').and.include('--yes');
    expect(await rowsOf(url)).to.have.length(3);
    await migrate(url, 'rollback', '--yes');
    expect(await tables(url)).to.deep.equal([]);
  });

  it('are not rolled back over the trail of operators without --yes', async () => {
    const { url } = await ledger();
    await sql(
      url,
      `INSERT INTO operator_actions (key, at, who, action, target, state)
       VALUES (gen_random_uuid(), now(), 'anna', 'queue.pause', '{}', 'done')`,
    );
    const { code, stderr } = await failureOf(migrate(url, 'rollback')).then((error) => error as ExecFileException);
    expect(code).to.equal(1);
    expect(stderr).to.include('1 in operator_actions');
    expect(await sql(url, 'SELECT id FROM operator_actions')).to.have.length(1);
  });

  it('are not run at all with arguments they do not know', async () => {
    const { url } = await ledger();
    expect(await failureOf(migrate(url, 'rollback', '--force'))).to.include({ code: 2 });
    expect(await failureOf(migrate(url, 'latest', '--yes'))).to.include({ code: 2 });
    expect(await tables(url)).to.have.length(1);
  });

  it('are applied once when six start at once on a new database, twenty times', async () => {
    const admin = (await sharedPostgres()).url;
    for (let round = 0; round < 20; round += 1) {
      const url = await newUrl();
      await sql(admin, `CREATE DATABASE ${new URL(url).pathname.slice(1)}`);
      const { database } = loadConfig({ DATABASE_URL: url });
      const ran = await Promise.all(Array.from({ length: 6 }, () => migrateToLatest(database)));
      expect(ran.filter(({ names }) => names.length > 0)).to.have.length(1);
    }
  }).timeout(60_000);

  it('create the database once when six do so at once, as processes of their own', async () => {
    const url = await newUrl();
    const created = await Promise.all(Array.from({ length: 6 }, () => script(url, 'src/commands/db-create.ts')));
    expect(created.filter(({ stdout }) => stdout.startsWith('created'))).to.have.length(1);
    const ran = await Promise.all(Array.from({ length: 6 }, () => migrate(url, 'latest')));
    expect(ran.filter(({ stdout }) => !stdout.startsWith('nothing'))).to.have.length(1);
  });

  it('give up after seconds, and change nothing, when others hold a table they change', async () => {
    const { url } = await ledger();
    const release = await holdTable(url);
    await failureOf(migrate(url, 'rollback', '--yes'));
    await release();
    expect(await tables(url)).to.have.length(1);
    await migrate(url, 'rollback', '--yes');
  }).timeout(20_000);

  it('are all applied in what the tests run on', async () => {
    const { stdout } = await migrate(await freshDatabase(), 'latest');
    expect(stdout).to.match(/nothing to do/);
  });
});
