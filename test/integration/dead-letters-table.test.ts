import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { migrate } from '../../dev/stack.ts';
import { LedgerUnavailableError } from '../../src/errors.ts';
import { createDb } from '../../src/ledger/db.ts';
import { createDeadLetters, type DeadLetter } from '../../src/ledger/dead-letters.ts';
import { createLedger } from '../../src/ledger/ledger.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { freshDatabase, sql } from '../support/services.ts';

interface DeadLetterRow {
  id: string;
  job_id: string;
  correlation_id: string | null;
  amount_text: string | null;
  payload: string | null;
  payload_bytes: number | null;
  reason_code: string;
  reason: string;
  gateway: string | null;
  unresolved_at: string | null;
  attempts: number;
  accepted_at: Date;
  died_at: Date;
  state: string;
  state_at: Date;
  state_by: string;
}

const NOON = new Date('2025-07-15T12:00:00.000Z');

function aDeadLetter(fields: Partial<DeadLetter> = {}): DeadLetter {
  const correlationId = 'correlationId' in fields ? fields.correlationId : randomUUID();
  return {
    jobId: correlationId ?? '17',
    correlationId,
    amountText: '19.9',
    payload: `{"correlationId": "${correlationId}", "amount": 19.90}`,
    code: 'rejected',
    reason: 'HTTP 400',
    gateway: 'primary',
    attempts: 1,
    acceptedAt: NOON,
    ...fields,
  };
}

describe('dead letters table', () => {
  let url: string;
  before(async () => {
    url = await freshDatabase();
  });
  beforeEach(() => sql(url, 'TRUNCATE payments, dead_letters'));

  function table({ maxInvalid = 100_000 } = {}) {
    const db = createDb({ url, poolSize: 2, ssl: false });
    atTestEnd(() => db.destroy());
    return { deadLetters: createDeadLetters(db, { maxInvalid }), payments: createLedger(db) };
  }
  const rows = () => sql<DeadLetterRow>(url, 'SELECT * FROM dead_letters ORDER BY id');
  const states = async () => (await rows()).map(({ state }) => state);
  const setState = (state: string) => sql(url, 'UPDATE dead_letters SET state = $1', [state]);
  const paid = (correlationId: string | undefined) => ({
    correlationId: correlationId!,
    gateway: 'primary' as const,
    amountCents: 1990,
    requestedAt: NOON,
  });

  it('keeps every field of a payment and its payload as it was posted', async () => {
    const { deadLetters } = table();
    const letter = aDeadLetter();
    expect(await deadLetters.bury([letter])).to.deep.equal(['kept']);
    const [row] = await rows();
    expect(row).to.deep.include({
      job_id: letter.jobId,
      correlation_id: letter.correlationId,
      amount_text: '19.9',
      payload: letter.payload,
      payload_bytes: letter.payload!.length,
      reason_code: 'rejected',
      reason: 'HTTP 400',
      gateway: 'default',
      unresolved_at: null,
      attempts: 1,
      accepted_at: NOON,
      state: 'open',
      state_by: 'worker',
    });
    expect(Date.now() - row!.died_at.getTime()).to.be.lessThan(60_000);
  });

  it('says where an attempt is unresolved, which a rejected payment has none of', async () => {
    const { deadLetters } = table();
    await deadLetters.bury([aDeadLetter({ code: 'payload_missing', payload: undefined, gateway: 'fallback' })]);
    expect((await rows())[0]).to.include({ gateway: 'fallback', unresolved_at: 'fallback', payload: null });
  });

  it('keeps many in one statement, those without an id of their own beside one another', async () => {
    const { deadLetters } = table();
    const letters = Array.from({ length: 100 }, (_, n) =>
      aDeadLetter({ correlationId: undefined, jobId: String(n), code: 'invalid_payment', gateway: undefined }),
    );
    expect(await deadLetters.bury(letters)).to.deep.equal(letters.map(() => 'kept'));
    expect((await rows()).map(({ job_id }) => job_id)).to.have.members(letters.map(({ jobId }) => jobId));
  });

  it('opens the same row again when it dies again, with the new reason and the old payload', async () => {
    const { deadLetters } = table();
    const letter = aDeadLetter();
    await deadLetters.bury([letter]);
    await setState('queued_again');
    const [before] = await rows();
    await deadLetters.bury([{ ...letter, reason: 'HTTP 400 again', attempts: 2, payload: '{}', gateway: undefined }]);
    const [after, ...more] = await rows();
    expect(more).to.deep.equal([]);
    expect(after).to.include({ state: 'open', reason: 'HTTP 400 again', attempts: 2, payload: letter.payload });
    expect(after!.gateway, 'a tie, once known').to.equal('default');
    expect(after!.died_at.getTime()).to.be.greaterThan(before!.died_at.getTime());
  });

  it('takes one payment twice in a batch', async () => {
    const { deadLetters } = table();
    const letter = aDeadLetter();
    expect(await deadLetters.bury([letter, letter])).to.deep.equal(['kept', 'kept']);
    expect(await rows()).to.have.length(1);
  });

  it('leaves a closed row closed', async () => {
    const { deadLetters } = table();
    const letter = aDeadLetter();
    await deadLetters.bury([letter]);
    for (const state of ['paid', 'recorded', 'discarded']) {
      await setState(state);
      expect(await deadLetters.bury([letter])).to.deep.equal(['kept']);
      expect(await states()).to.deep.equal([state]);
    }
  });

  it('has one row for each time an id was accepted', async () => {
    const { deadLetters } = table();
    const letter = aDeadLetter();
    await deadLetters.bury([letter, { ...letter, acceptedAt: new Date(NOON.getTime() + 1) }]);
    expect(await states()).to.deep.equal(['open', 'open']);
  });

  it('closes all rows of an id in the statement that records its payment, and no others', async () => {
    const { deadLetters, payments } = table();
    const letter = aDeadLetter();
    const other = aDeadLetter();
    await deadLetters.bury([letter, { ...letter, acceptedAt: new Date(0) }, other]);
    await deadLetters.lookUp([letter.correlationId!]);
    await payments.insertPayments([paid(letter.correlationId), paid(randomUUID())]);
    expect(
      (await rows()).map(({ correlation_id, state }) => [correlation_id === letter.correlationId, state]),
    ).to.have.deep.members([
      [true, 'paid'],
      [true, 'paid'],
      [false, 'open'],
    ]);
  });

  it('closes rows for an INSERT of a worker that knows nothing of them', async () => {
    const { deadLetters } = table();
    const letter = aDeadLetter();
    await deadLetters.bury([letter]);
    await sql(
      url,
      `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
       SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[])
       ON CONFLICT (correlation_id) DO NOTHING`,
      [[letter.correlationId], ['default'], [1990], [NOON]],
    );
    expect(await states()).to.deep.equal(['paid']);
  });

  it('keeps the decision of an operator when the id is paid later', async () => {
    const { deadLetters, payments } = table();
    const letter = aDeadLetter();
    await deadLetters.bury([letter]);
    await setState('discarded');
    await payments.insertPayments([paid(letter.correlationId)]);
    expect(await states()).to.deep.equal(['discarded']);
  });

  it('keeps a payment whose id is paid already as paid', async () => {
    const { deadLetters, payments } = table();
    const letter = aDeadLetter();
    await payments.insertPayments([paid(letter.correlationId)]);
    await deadLetters.bury([letter]);
    expect(await states()).to.deep.equal(['paid']);
  });

  describe('look-up', () => {
    it('says which ids are recorded, and ties none of the others', async () => {
      const { deadLetters, payments } = table();
      const [known, unknown] = [randomUUID(), randomUUID()];
      await payments.insertPayments([paid(known)]);
      expect(await deadLetters.lookUp([unknown, known])).to.deep.equal(
        new Map([
          [unknown, { isRecorded: false, tiedTo: undefined }],
          [known, { isRecorded: true, tiedTo: undefined }],
        ]),
      );
      expect(await deadLetters.lookUp([])).to.deep.equal(new Map());
    });

    it('ties an id to the gateway of its row, also at a second look-up', async () => {
      const { deadLetters } = table();
      const letter = aDeadLetter({ gateway: 'fallback' });
      const id = letter.correlationId!;
      await deadLetters.bury([letter]);
      await deadLetters.bury([aDeadLetter()]);
      for (let run = 0; run < 2; run += 1) {
        expect((await deadLetters.lookUp([id])).get(id)).to.deep.equal({ isRecorded: false, tiedTo: 'fallback' });
        expect(await states()).to.deep.equal(['queued_again', 'open']);
      }
    });

    it('does not tie an id by a row without a gateway, nor by a closed one', async () => {
      const { deadLetters } = table();
      const invalid = aDeadLetter({ code: 'invalid_payment', gateway: undefined });
      const id = invalid.correlationId!;
      await deadLetters.bury([invalid]);
      expect((await deadLetters.lookUp([id])).get(id)?.tiedTo).to.equal(undefined);
      expect(await states()).to.deep.equal(['queued_again']);
      await sql(url, `UPDATE dead_letters SET gateway = 'fallback'`);
      for (const state of ['paid', 'recorded', 'discarded']) {
        await setState(state);
        expect((await deadLetters.lookUp([id])).get(id)?.tiedTo).to.equal(undefined);
        expect(await states()).to.deep.equal([state]);
      }
    });

    it('closes the open row of an id that is recorded', async () => {
      const { deadLetters, payments } = table();
      const letter = aDeadLetter();
      await payments.insertPayments([paid(letter.correlationId)]);
      await deadLetters.bury([letter]);
      await setState('open');
      await deadLetters.lookUp([letter.correlationId!]);
      expect(await states()).to.deep.equal(['paid']);
    });
  });

  describe('payload', () => {
    const bury = async (payload: string, fields: Partial<DeadLetter> = {}) => {
      const { deadLetters } = table();
      await deadLetters.bury([
        aDeadLetter({ jobId: '0', code: 'invalid_payment', payload, ...fields }),
        aDeadLetter({ jobId: '1' }),
      ]);
      const [row, other] = await rows();
      expect(other?.payload, 'of the other row').to.be.a('string');
      return { row: row!, stored: (await deadLetters.find({ jobId: '0', acceptedAt: NOON }))! };
    };

    it('is the first 2 KiB of an invalid payment, marked as cut', async () => {
      const payload = JSON.stringify('x'.repeat(60_000));
      const { row, stored } = await bury(payload);
      expect(row).to.include({ payload: payload.slice(0, 2048), payload_bytes: 60_002 });
      expect(stored).to.deep.equal({ payload: row.payload, isCut: true });
    });

    it('is all of it up to 2 KiB, and of any other dead letter', async () => {
      expect((await bury(JSON.stringify('x'.repeat(2046)))).stored.isCut).to.equal(false);
      await sql(url, 'TRUNCATE dead_letters');
      const { stored } = await bury(JSON.stringify('x'.repeat(60_000)), { code: 'rejected' });
      expect(stored).to.include({ isCut: false });
      expect(stored.payload).to.have.length(60_002);
    });

    it('is cut between characters, of two bytes or four', async () => {
      for (const character of ['\u00e9', '\u{1f4b8}']) {
        await sql(url, 'TRUNCATE dead_letters');
        const { row } = await bury(JSON.stringify(character.repeat(1500)));
        expect(row.payload).to.match(new RegExp(`^"${character}+$`, 'u'));
        expect(Buffer.byteLength(row.payload!)).to.be.within(2045, 2048);
      }
    });

    it('keeps escapes that no jsonb takes, and lone surrogates as replacement characters', async () => {
      expect((await bury('"\\u0000 \\ud800"')).row.payload).to.equal('"\\u0000 \\ud800"');
      await sql(url, 'TRUNCATE dead_letters');
      expect((await bury('"\ud800"')).row.payload).to.equal('"\ufffd"');
    });

    it('keeps 32,000 brackets', async () => {
      const payload = '['.repeat(32_000) + ']'.repeat(32_000);
      expect((await bury(payload, { code: 'rejected' })).row.payload === payload).to.equal(true);
    });

    it('is left out when PostgreSQL rejects it, which holds up no other row', async () => {
      const { row, stored } = await bury('"\0"', { reason: 'has \0', amountText: '\0' });
      expect(row).to.include({ payload: null, payload_bytes: 3, reason: 'has ?', amount_text: '?' });
      expect(stored).to.deep.equal({ payload: undefined, isCut: true });
    });
  });

  it('keeps a row in a database whose encoding lacks its characters', async () => {
    const { pathname } = new URL(url);
    const latin = `${pathname.slice(1)}_latin`;
    await sql(url, `CREATE DATABASE ${latin} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'`);
    const latinUrl = new URL(`/${latin}`, url).href;
    await migrate(latinUrl);
    const db = createDb({ url: latinUrl, poolSize: 1, ssl: false });
    atTestEnd(() => db.destroy());
    const { bury } = createDeadLetters(db, { maxInvalid: 10 });
    expect(await bury([aDeadLetter({ reason: '\u20ac is no amount', payload: undefined })])).to.deep.equal(['kept']);
    expect(await sql(latinUrl, 'SELECT reason, payload FROM dead_letters')).to.deep.equal([
      { reason: '? is no amount', payload: null },
    ]);
  });

  it('keeps a dead letter whose job had garbage for a time, once', async () => {
    const { deadLetters } = table();
    const letter = aDeadLetter({ acceptedAt: new Date(Number.NaN) });
    await deadLetters.bury([letter]);
    await deadLetters.bury([{ ...letter, acceptedAt: new Date(8.64e15) }]);
    expect((await rows()).map(({ accepted_at }) => accepted_at.getTime())).to.deep.equal([0]);
    expect(await deadLetters.areBuried([letter])).to.deep.equal([true]);
  });

  it('finds the row of one death of an id', async () => {
    const { deadLetters } = table();
    const letter = aDeadLetter();
    const later = { ...letter, acceptedAt: new Date(NOON.getTime() + 5), payload: '"later"' };
    await deadLetters.bury([later, letter]);
    expect(await deadLetters.find(letter)).to.deep.equal({ payload: letter.payload, isCut: false });
    expect(await deadLetters.find(later)).to.deep.equal({ payload: '"later"', isCut: false });
    expect(await deadLetters.find({ ...letter, jobId: '18' })).to.equal(undefined);
  });

  it('is found by id beside the payments: the latest open row before those that an operator closed', async () => {
    const { deadLetters, payments } = table();
    const [dead, closed, paid, unknown] = Array.from({ length: 4 }, (): string => randomUUID());
    const at = (minute: number) => new Date(NOON.getTime() + minute * 60_000);
    const letter = (correlationId: string, minute: number, reason: string) =>
      aDeadLetter({ correlationId, acceptedAt: at(minute), reason });
    await deadLetters.bury([letter(dead!, 0, 'first'), letter(dead!, 1, 'second'), letter(dead!, 2, 'discarded')]);
    await deadLetters.bury([letter(closed!, 0, 'discarded'), letter(paid!, 0, 'paid')]);
    await sql(url, "UPDATE dead_letters SET state = reason WHERE reason = 'discarded'");
    const payment = { correlationId: paid!, gateway: 'fallback', amountCents: 1990, requestedAt: NOON } as const;
    await payments.insertPayments([payment]);
    const found = await payments.find([dead!, closed!, paid!, unknown!]);
    expect(found.get(dead!)!.deadLetter).to.deep.include({
      state: 'open',
      reason: 'second',
      code: 'rejected',
      gateway: 'primary',
      amountText: '19.9',
      attempts: 1,
      acceptedAt: at(1),
    });
    expect(found.get(closed!)!.deadLetter).to.include({ state: 'discarded' });
    const { recordedAt, ...recorded } = found.get(paid!)!.recorded!;
    expect({ correlationId: paid, ...recorded }).to.deep.equal(payment);
    expect(Date.now() - recordedAt.getTime()).to.be.within(0, 10_000);
    expect(found.get(paid!)!.deadLetter).to.equal(undefined);
    expect(found.get(unknown!)).to.deep.equal({ recorded: undefined, deadLetter: undefined });
  });

  it('is found by id in milliseconds beside 50,000 rows of another id', async () => {
    const { payments } = table();
    await sql(
      url,
      `INSERT INTO dead_letters (job_id, correlation_id, reason_code, reason, attempts, accepted_at, died_at, state_by)
       SELECT 'a', '${randomUUID()}', 'invalid_payment', 'x', 1, now() + i * interval '1 s', now(), 'worker'
       FROM generate_series(1, 50000) AS i`,
    );
    await sql(url, 'ANALYZE dead_letters');
    let fastestMs = Number.POSITIVE_INFINITY;
    for (let n = 0; n < 5; n += 1) {
      const startedAt = performance.now();
      await payments.find(Array.from({ length: 50 }, (): string => randomUUID()));
      fastestMs = Math.min(fastestMs, performance.now() - startedAt);
    }
    // A scan of the table for each id takes 300 ms.
    expect(fastestMs).to.be.below(100);
  });

  it('says which dead jobs have a row', async () => {
    const { deadLetters } = table();
    const [first, second] = [aDeadLetter(), aDeadLetter()];
    await deadLetters.bury([first]);
    const elsewhen = { ...first, acceptedAt: new Date(0) };
    expect(await deadLetters.areBuried([second, first, elsewhen])).to.deep.equal([false, true, false]);
    await setState('queued_again');
    expect(
      await deadLetters.areBuried([first]),
      'a row of which the ledger believes that it is in the queue',
    ).to.deep.equal([false]);
  });

  describe('DEAD_LETTERS_MAX_INVALID', () => {
    const invalid = () => aDeadLetter({ code: 'invalid_payment', gateway: undefined });

    it('bounds the open invalid payments, and no others', async () => {
      const { deadLetters } = table({ maxInvalid: 2 });
      const results = await deadLetters.bury([invalid(), aDeadLetter(), invalid(), invalid(), aDeadLetter()]);
      expect(results).to.deep.equal(['kept', 'kept', 'kept', 'beyond_bound', 'kept']);
      expect(await deadLetters.bury([invalid(), aDeadLetter()])).to.deep.equal(['beyond_bound', 'kept']);
      expect(await rows()).to.have.length(5);
    });

    it('has room again for each that an operator closes', async () => {
      await table({ maxInvalid: 1 }).deadLetters.bury([invalid()]);
      await setState('discarded');
      expect(await table({ maxInvalid: 1 }).deadLetters.bury([invalid()])).to.deep.equal(['kept']);
      expect(await table({ maxInvalid: 1 }).deadLetters.bury([invalid()])).to.deep.equal(['beyond_bound']);
    });

    it('keeps none when it is 0', async () => {
      expect(await table({ maxInvalid: 0 }).deadLetters.bury([invalid()])).to.deep.equal(['beyond_bound']);
    });
  });

  it('counts the open ones by their code, and names a code without any', async () => {
    const { deadLetters } = table();
    expect(await deadLetters.countOpen()).to.deep.equal({ invalid_payment: 0, rejected: 0, payload_missing: 0 });
    await deadLetters.bury([aDeadLetter(), aDeadLetter()]);
    await setState('discarded');
    await deadLetters.bury([aDeadLetter(), aDeadLetter({ code: 'invalid_payment' }), aDeadLetter()]);
    expect(await deadLetters.countOpen()).to.deep.equal({ invalid_payment: 1, rejected: 2, payload_missing: 0 });
  });

  it('says that the ledger is unavailable while the table is not there yet', async () => {
    const { deadLetters } = table();
    await sql(url, 'ALTER TABLE dead_letters RENAME TO elsewhere');
    try {
      for (const statement of [() => deadLetters.bury([aDeadLetter()]), () => deadLetters.lookUp([randomUUID()])]) {
        const error = await statement().then(
          () => undefined,
          (thrown: unknown) => thrown,
        );
        expect(error).to.be.instanceOf(LedgerUnavailableError);
      }
    } finally {
      await sql(url, 'ALTER TABLE elsewhere RENAME TO dead_letters');
    }
  });
});
