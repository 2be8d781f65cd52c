import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { LedgerUnavailableError } from '../../src/errors.ts';
import { createArchive } from '../../src/ledger/archive.ts';
import { createLedgerByHand } from '../../src/ledger/by-hand.ts';
import { createDb } from '../../src/ledger/db.ts';
import { createDeadLetters } from '../../src/ledger/dead-letters.ts';
import { createLedger, type PaidPayment } from '../../src/ledger/ledger.ts';
import { createOperatorActions } from '../../src/ledger/operator-actions.ts';
import { createReconciliations } from '../../src/ledger/reconciliations.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { rejectedLetter } from '../support/dead-letters.ts';
import { freshDatabase, sql } from '../support/services.ts';

/** The two blocks of docs/operating.md: the service, and what archive and purge need besides. */
const [SERVICE, BESIDES] = [...readFileSync('docs/operating.md', 'utf8').matchAll(/```sql\n((?:GRANT .*\n)+)```/g)].map(
  ([, block]) => block!,
);

function paid(): PaidPayment {
  return { correlationId: randomUUID(), gateway: 'primary', amountCents: 1990, requestedAt: new Date() };
}

/** A ledger whose user has no rights but those of these statements. */
async function ledgerWith(...grants: readonly string[]) {
  const url = await freshDatabase();
  const user = `relay_${randomUUID().replaceAll('-', '')}`;
  await sql(url, `CREATE ROLE ${user} LOGIN`);
  for (const grant of grants) await sql(url, grant.replaceAll('payrelay', user));
  atTestEnd(async () => {
    await sql(url, `DROP OWNED BY ${user}`);
    await sql(url, `DROP ROLE ${user}`);
  });
  const asUser = new URL(url);
  asUser.username = user;
  const db = createDb({ url: asUser.href, poolSize: 2, ssl: false });
  atTestEnd(() => db.destroy());
  return { url, db, ledger: createLedger(db), archive: createArchive(db) };
}

const EVERYTHING = { from: undefined, before: new Date('2100-01-01') };

describe('the documented rights of a PostgreSQL user', () => {
  it('are enough for the service, also for the record of an archived payment', async () => {
    const { url, db, ledger } = await ledgerWith(SERVICE!);
    const [payment, archived] = [paid(), paid()];
    await ledger.ping();
    await ledger.insertPayments([payment, archived]);
    await sql(
      url,
      `WITH moved AS (DELETE FROM payments WHERE correlation_id = '${archived.correlationId}' RETURNING *)
       INSERT INTO payments_archive SELECT * FROM moved`,
    );
    await ledger.insertPayments([payment, archived]);
    const deadLetters = createDeadLetters(db, { maxInvalid: 10 });
    const letter = rejectedLetter(randomUUID());
    await deadLetters.bury([letter, rejectedLetter(archived.correlationId)]);
    const found = await deadLetters.lookUp([payment.correlationId, archived.correlationId, letter.jobId]);
    expect([...found.values()].map(({ isRecorded }) => isRecorded)).to.deep.equal([true, true, false]);
    await createLedgerByHand(db).record({ ...paid(), correlationId: letter.jobId }, 'anna');
    expect((await ledger.find([archived.correlationId])).get(archived.correlationId)!.recorded).to.not.equal(undefined);
    expect((await ledger.summarise({})).primary.totalRequests).to.equal(3);
    await createReconciliations(db).last();
    await createOperatorActions(db).list({ limit: 1 });
  });

  it('of the service alone do not move a payment', async () => {
    const { ledger, archive } = await ledgerWith(SERVICE!);
    await ledger.insertPayments([paid()]);
    let error: unknown;
    await archive.moveBatch(EVERYTHING).catch((each: unknown) => {
      error = each;
    });
    expect(error).to.be.instanceOf(LedgerUnavailableError);
  });

  it('are enough for the archive and the purge', async () => {
    const { ledger, archive } = await ledgerWith(SERVICE!, BESIDES!);
    await ledger.insertPayments([paid()]);
    expect((await archive.measure(EVERYTHING.before)).oldPayments).to.equal(1);
    expect((await archive.moveBatch(EVERYTHING))?.payments).to.equal(1);
    await ledger.purge();
    expect((await ledger.summarise({})).primary.totalRequests).to.equal(0);
  });
});
