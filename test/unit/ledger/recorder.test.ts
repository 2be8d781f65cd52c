import { createRequire, syncBuiltinESMExports } from 'node:module';
import { expect } from 'chai';
import { BatcherClosedError } from '../../../src/batcher.ts';
import { LedgerUnavailableError } from '../../../src/errors.ts';
import type { BuryResult, DeadLetter } from '../../../src/ledger/dead-letters.ts';
import type { PaidPayment } from '../../../src/ledger/ledger.ts';
import { createRecorder, type Recorder } from '../../../src/ledger/recorder.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { recordingLogger } from '../../support/logger.ts';

/** What `import` gives is sinon's build for browsers, whose clock leaves node:timers/promises alone. */
const sinon: typeof import('sinon') = createRequire(import.meta.url)('sinon');

const RETRY_MS = 250;

const id = (n: number) => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const paid = (n: number): PaidPayment => ({
  correlationId: id(n),
  amountCents: n,
  gateway: 'primary',
  requestedAt: new Date(0),
});

const deadLetter = (n: number, reason = 'amount must be positive'): DeadLetter => ({
  jobId: String(n),
  correlationId: undefined,
  amountText: undefined,
  payload: undefined,
  code: 'invalid_payment',
  reason,
  gateway: undefined,
  attempts: 1,
  acceptedAt: new Date(0),
});

const isRecorded = async (recorder: Recorder, correlationId: string) =>
  (await recorder.lookUp(correlationId)).isRecorded;

const UNAVAILABLE = new LedgerUnavailableError('PostgreSQL did not respond');

/** A recorder over a ledger in memory that the test can take down or make reject rows. */
function setUp({ lookUpWaitMs = 0, insertWaitMs = 0, maxPending = 1_000, waitingElsewhere = (): number => 0 } = {}) {
  const clock = sinon.useFakeTimers();
  // Gives the fake clock to modules that import node:timers/promises by name.
  syncBuiltinESMExports();
  atTestEnd(() => {
    clock.restore();
    syncBuiltinESMExports();
  });
  const rows = new Set<string>();
  /** The amounts of each INSERT and the number of ids of each SELECT, tried or carried out. */
  const inserts: number[][] = [];
  const selects: number[] = [];
  /** The job ids of each burial, tried or carried out. */
  const burials: string[][] = [];
  const ledger = {
    isAway: false,
    /** Whether it takes writes. */
    commits: true,
    hangs: false,
    rejects: (_payment: PaidPayment) => false,
    ties: new Map<string, 'primary' | 'fallback'>(),
    keeps: (_letter: DeadLetter): BuryResult => 'kept',
  };
  const { logger, entries } = recordingLogger();
  const recorder = createRecorder({
    lookUpWaitMs,
    insertWaitMs,
    table: {
      async insertPayments(payments) {
        inserts.push(payments.map(({ amountCents }) => amountCents));
        if (ledger.hangs) await new Promise(() => undefined);
        if (ledger.isAway || !ledger.commits) throw UNAVAILABLE;
        if (payments.some(ledger.rejects)) throw new Error('violates check constraint');
        for (const { correlationId } of payments) rows.add(correlationId);
      },
    },
    deadLetters: {
      async lookUp(correlationIds) {
        selects.push(correlationIds.length);
        if (ledger.hangs) await new Promise(() => undefined);
        if (ledger.isAway) throw UNAVAILABLE;
        return new Map(
          correlationIds.map((each) => [each, { isRecorded: rows.has(each), tiedTo: ledger.ties.get(each) }]),
        );
      },
      async bury(letters) {
        burials.push(letters.map(({ jobId }) => jobId));
        if (ledger.isAway || !ledger.commits) throw UNAVAILABLE;
        return letters.map(ledger.keeps);
      },
    },
    logger,
    maxPending,
    waitingElsewhere,
  });
  return { clock, recorder, ledger, rows, inserts, selects, burials, entries };
}

/** How each promise stands now, after promises have settled. */
function watch(promises: readonly Promise<unknown>[]): unknown[] {
  const states: unknown[] = promises.map(() => 'pending');
  promises.forEach((promise, index) => {
    promise.then(
      (value) => {
        states[index] = value === undefined ? 'done' : value;
      },
      (error: Error) => {
        states[index] = error;
      },
    );
  });
  return states;
}

describe('recorder', () => {
  it('records payments that come together in one statement', async () => {
    const { clock, recorder, rows, inserts } = setUp();
    const states = watch([1, 2, 3].map((n) => recorder.record(paid(n))));
    await clock.tickAsync(0);
    expect(states).to.deep.equal(['done', 'done', 'done']);
    expect(inserts).to.deep.equal([[1, 2, 3]]);
    expect([...rows]).to.deep.equal([id(1), id(2), id(3)]);
  });

  it('looks many ids up in one statement and resolves each', async () => {
    const { clock, recorder, rows, selects } = setUp();
    rows.add(id(2));
    const states = watch([1, 2, 3].map((n) => isRecorded(recorder, id(n))));
    await clock.tickAsync(0);
    expect(states).to.deep.equal([false, true, false]);
    expect(selects).to.deep.equal([3]);
  });

  it('says to which gateway a dead letter ties an id', async () => {
    const { clock, recorder, ledger } = setUp();
    ledger.ties.set(id(2), 'fallback');
    const states = watch([1, 2].map((n) => recorder.lookUp(id(n))));
    await clock.tickAsync(0);
    expect(states).to.deep.equal([
      { isRecorded: false, tiedTo: undefined },
      { isRecorded: false, tiedTo: 'fallback' },
    ]);
  });

  describe('bury', () => {
    it('puts dead letters that come together into one statement, at most 100', async () => {
      const { clock, recorder, burials } = setUp();
      const states = watch(Array.from({ length: 101 }, (_, n) => recorder.bury(deadLetter(n))));
      await clock.tickAsync(0);
      expect(states).to.not.include('pending');
      expect(burials.map((burial) => burial.length)).to.deep.equal([100, 1]);
    });

    it('waits while PostgreSQL is down, also after look-ups have stopped', async () => {
      const { clock, recorder, ledger } = setUp();
      ledger.isAway = true;
      const states = watch([recorder.bury(deadLetter(1))]);
      await clock.tickAsync(60_000);
      recorder.abortLookUps();
      await clock.tickAsync(60_000);
      expect(states).to.deep.equal(['pending']);
      ledger.isAway = false;
      await clock.tickAsync(RETRY_MS);
      expect(states).to.deep.equal(['done']);
    });

    it('rejects at once after abort', async () => {
      const { clock, recorder, ledger } = setUp();
      ledger.isAway = true;
      const states = watch([recorder.bury(deadLetter(1))]);
      await clock.tickAsync(0);
      recorder.abort();
      await clock.tickAsync(0);
      expect(states[0]).to.be.instanceOf(LedgerUnavailableError);
    });

    it('counts by reason what is not kept, and logs it once a minute', async () => {
      const { clock, recorder, ledger, entries } = setUp();
      ledger.keeps = ({ reason }) => (reason === 'kept' ? 'kept' : 'beyond_bound');
      for (let n = 0; n < 90; n += 1) {
        watch(['a', 'b', 'kept'].map((reason) => recorder.bury(deadLetter(n, reason))));
        await clock.tickAsync(1_000);
      }
      expect(entries.map(({ level, code, count }) => [level, code, count])).to.deep.equal([
        ['warn', 'a', 1],
        ['warn', 'b', 1],
        ['warn', 'a', 61],
        ['warn', 'b', 61],
      ]);
    });

    it('distinguishes at most 20 reasons', async () => {
      const { clock, recorder, ledger, entries } = setUp();
      ledger.keeps = () => 'beyond_bound';
      watch(Array.from({ length: 500 }, (_, n) => recorder.bury(deadLetter(n, `not ${n}`))));
      await clock.tickAsync(0);
      expect(new Set(entries.map(({ code }) => code))).to.have.property('size', 21);
    });
  });

  it('puts at most 500 into one statement', async () => {
    const { clock, recorder, inserts, selects } = setUp();
    const numbers = Array.from({ length: 501 }, (_, n) => n);
    const states = watch([
      ...numbers.map((n) => recorder.record(paid(n))),
      ...numbers.map((n) => isRecorded(recorder, id(n))),
    ]);
    await clock.tickAsync(0);
    expect(states).to.not.include('pending');
    expect(inserts.map((insert) => insert.length)).to.deep.equal([500, 1]);
    expect(selects).to.deep.equal([500, 1]);
  });

  it('says nothing on a day without a fault', async () => {
    const { clock, recorder, entries } = setUp();
    watch([recorder.record(paid(1)), isRecorded(recorder, id(2))]);
    await clock.tickAsync(60_000);
    expect(entries).to.deep.equal([]);
  });

  it('does not let look-ups wait for an insert under way', async () => {
    const { clock, recorder, ledger } = setUp();
    ledger.hangs = true;
    watch([recorder.record(paid(1))]);
    await clock.tickAsync(0);
    ledger.hangs = false;
    const states = watch([isRecorded(recorder, id(2))]);
    await clock.tickAsync(0);
    expect(states).to.deep.equal([false]);
  });

  describe('waiting for company', () => {
    const waits = { lookUpWaitMs: 4, insertWaitMs: 10, maxPending: 4 };

    it('flushes at once when every payment of the worker waits to be looked up', async () => {
      const { clock, recorder, selects } = setUp(waits);
      const states = watch([1, 2, 3, 4].map((n) => recorder.lookUp(id(n))));
      await clock.tickAsync(0);
      expect(selects).to.deep.equal([4]);
      expect(states).to.deep.equal([1, 2, 3, 4].map(() => ({ isRecorded: false, tiedTo: undefined })));
    });

    it('does not wait for payments that wait in the other batch', async () => {
      const { clock, recorder, selects, inserts } = setUp(waits);
      watch([recorder.lookUp(id(1))]);
      watch([2, 3].map((n) => recorder.record(paid(n))));
      await clock.tickAsync(0);
      expect([selects, inserts]).to.deep.equal([[], []]);
      watch([recorder.record(paid(4))]);
      await clock.tickAsync(0);
      expect([selects, inserts]).to.deep.equal([[1], [[2, 3, 4]]]);
    });

    it('does not wait for payments that wait for a gateway', async () => {
      const { clock, recorder, selects } = setUp({ ...waits, waitingElsewhere: () => 2 });
      watch([recorder.lookUp(id(1))]);
      await clock.tickAsync(0);
      expect(selects).to.deep.equal([]);
      watch([recorder.lookUp(id(2))]);
      await clock.tickAsync(0);
      expect(selects).to.deep.equal([2]);
    });

    it('does not wait for payments whose statement is under way', async () => {
      const { clock, recorder, ledger, selects, inserts } = setUp(waits);
      ledger.hangs = true;
      watch([1, 2].map((n) => recorder.record(paid(n))));
      await clock.tickAsync(10);
      expect(inserts).to.deep.equal([[1, 2]]);
      watch([3, 4].map((n) => recorder.lookUp(id(n))));
      await clock.tickAsync(0);
      expect(selects).to.deep.equal([2]);
    });

    it('waits for a payment that may still come, but not for longer than it was told', async () => {
      const { clock, recorder, selects, inserts } = setUp(waits);
      watch([1, 2, 3].map((n) => recorder.lookUp(id(n))));
      await clock.tickAsync(3);
      expect(selects).to.deep.equal([]);
      await clock.tickAsync(1);
      expect(selects).to.deep.equal([3]);
      watch([1, 2, 3].map((n) => recorder.record(paid(n))));
      await clock.tickAsync(9);
      expect(inserts).to.deep.equal([]);
      await clock.tickAsync(1);
      expect(inserts).to.deep.equal([[1, 2, 3]]);
    });
  });

  describe('while PostgreSQL is down', () => {
    it('tries again every 250 ms and resolves after its return', async () => {
      const { clock, recorder, ledger, rows, inserts } = setUp();
      ledger.isAway = true;
      const states = watch([recorder.record(paid(1))]);
      await clock.tickAsync(0);
      expect(inserts).to.have.lengthOf(1);
      await clock.tickAsync(RETRY_MS - 1);
      expect(inserts).to.have.lengthOf(1);
      await clock.tickAsync(1);
      expect(inserts).to.have.lengthOf(2);
      await clock.tickAsync(60_000);
      expect(states).to.deep.equal(['pending']);
      ledger.isAway = false;
      await clock.tickAsync(RETRY_MS);
      expect(states).to.deep.equal(['done']);
      expect([...rows]).to.deep.equal([id(1)]);
    });

    it('keeps look-ups waiting and resolves them after its recovery', async () => {
      const { clock, recorder, ledger, rows, selects } = setUp();
      ledger.isAway = true;
      rows.add(id(1));
      const states = watch([isRecorded(recorder, id(1))]);
      await clock.tickAsync(60_000);
      expect(states).to.deep.equal(['pending']);
      expect(selects.length).to.be.within(60_000 / RETRY_MS, 60_000 / RETRY_MS + 1);
      ledger.isAway = false;
      await clock.tickAsync(RETRY_MS);
      expect(states).to.deep.equal([true]);
    });

    for (const [what, write] of [
      ['payment', (recorder: Recorder) => recorder.record(paid(1))],
      ['dead letter', (recorder: Recorder) => recorder.bury(deadLetter(1))],
    ] as const) {
      it(`reads nothing while it does not commit a ${what}, and says so all the time`, async () => {
        const { clock, recorder, ledger, selects } = setUp();
        ledger.commits = false;
        watch([write(recorder)]);
        await clock.tickAsync(0);
        const since = recorder.outage?.since;
        const states = watch([isRecorded(recorder, id(2))]);
        await clock.tickAsync(60_000);
        expect(selects).to.deep.equal([]);
        expect(recorder.outage).to.deep.include({ code: 'ledger_unavailable', since: since! });
        ledger.commits = true;
        await clock.tickAsync(2 * RETRY_MS);
        expect(states).to.deep.equal([false]);
        expect(recorder.outage).to.equal(undefined);
      });
    }

    it('gathers what comes meanwhile into the next statement', async () => {
      const { clock, recorder, ledger, inserts } = setUp();
      ledger.isAway = true;
      watch([recorder.record(paid(1))]);
      await clock.tickAsync(0);
      watch([2, 3].map((n) => recorder.record(paid(n))));
      await clock.tickAsync(RETRY_MS);
      ledger.isAway = false;
      await clock.tickAsync(RETRY_MS);
      expect(inserts.slice(-2)).to.deep.equal([[1], [2, 3]]);
    });

    it('logs the outage once, and its end', async () => {
      const { clock, recorder, ledger, entries } = setUp();
      ledger.isAway = true;
      watch([recorder.record(paid(1))]);
      await clock.tickAsync(60_000);
      expect(entries.map(({ level, message }) => `${level} ${message}`)).to.deep.equal([
        'warn the ledger is unavailable',
      ]);
      ledger.isAway = false;
      await clock.tickAsync(RETRY_MS);
      expect(entries.slice(1).map(({ level, message }) => `${level} ${message}`)).to.deep.equal([
        'info the ledger is available again',
      ]);
    });
  });

  describe('given a row that PostgreSQL rejects', () => {
    it('records all the others and rejects that one with the reason', async () => {
      const { clock, recorder, ledger, rows } = setUp();
      ledger.rejects = ({ amountCents }) => amountCents === 2;
      const states = watch([1, 2, 3].map((n) => recorder.record(paid(n))));
      await clock.tickAsync(0);
      expect(states[0]).to.equal('done');
      expect(states[1]).to.be.instanceOf(Error).and.have.property('message', 'violates check constraint');
      expect(states[2]).to.equal('done');
      expect([...rows]).to.deep.equal([id(1), id(3)]);
    });

    it('calls for a person with all that is needed to mend it', async () => {
      const { clock, recorder, ledger, entries } = setUp();
      ledger.rejects = () => true;
      watch([recorder.record(paid(7))]);
      await clock.tickAsync(0);
      expect(entries).to.deep.equal([
        {
          level: 'error',
          message: 'a payment was paid, but cannot be recorded',
          ...paid(7),
          cause: 'Error: violates check constraint',
        },
      ]);
    });

    it('does not try that row again by itself', async () => {
      const { clock, recorder, ledger, inserts } = setUp();
      ledger.rejects = () => true;
      watch([recorder.record(paid(7))]);
      await clock.tickAsync(60_000);
      expect(inserts).to.deep.equal([[7]]);
    });

    it('waits for PostgreSQL when it goes down in the middle of the search', async () => {
      const { clock, recorder, ledger, rows } = setUp();
      ledger.rejects = ({ amountCents }) => {
        ledger.isAway = true;
        return amountCents === 2;
      };
      const states = watch([1, 2].map((n) => recorder.record(paid(n))));
      await clock.tickAsync(60_000);
      expect(states).to.deep.equal(['pending', 'pending']);
      ledger.isAway = false;
      ledger.rejects = ({ amountCents }) => amountCents === 2;
      await clock.tickAsync(RETRY_MS);
      expect(states[0]).to.equal('done');
      expect(states[1]).to.be.instanceOf(Error);
      expect([...rows]).to.deep.equal([id(1)]);
    });
  });

  it('passes on the error of a look-up that PostgreSQL rejects, without a retry', async () => {
    const failure = new Error('permission denied');
    const { logger } = recordingLogger();
    const lookUp = sinon.stub().rejects(failure);
    const recorder = createRecorder({
      lookUpWaitMs: 0,
      insertWaitMs: 0,
      table: { insertPayments: sinon.stub() },
      deadLetters: { lookUp, bury: sinon.stub() },
      logger,
      maxPending: 1,
    });
    expect(await isRecorded(recorder, id(1)).catch((error: unknown) => error)).to.equal(failure);
    expect(lookUp.callCount).to.equal(1);
  });

  describe('abortLookUps', () => {
    it('rejects waiting look-ups at once and keeps payments trying', async () => {
      const { clock, recorder, ledger, rows } = setUp();
      ledger.isAway = true;
      const states = watch([isRecorded(recorder, id(1)), recorder.record(paid(2))]);
      await clock.tickAsync(RETRY_MS / 2);
      recorder.abortLookUps();
      await clock.tickAsync(1);
      expect(states).to.deep.equal([UNAVAILABLE, 'pending']);
      await clock.tickAsync(60_000);
      expect(states[1]).to.equal('pending');
      ledger.isAway = false;
      await clock.tickAsync(RETRY_MS);
      expect(states[1]).to.equal('done');
      expect([...rows]).to.deep.equal([id(2)]);
    });

    it('rejects look-ups that wait for PostgreSQL to commit', async () => {
      const { clock, recorder, ledger } = setUp();
      ledger.commits = false;
      watch([recorder.record(paid(1))]);
      await clock.tickAsync(0);
      const states = watch([isRecorded(recorder, id(2))]);
      await clock.tickAsync(1);
      recorder.abortLookUps();
      await clock.tickAsync(0);
      expect(states[0]).to.be.instanceOf(LedgerUnavailableError);
    });

    it('rejects a later look-up at its first failure', async () => {
      const { clock, recorder, ledger, selects } = setUp();
      ledger.isAway = true;
      recorder.abortLookUps();
      const states = watch([isRecorded(recorder, id(1))]);
      await clock.tickAsync(0);
      expect(states).to.deep.equal([UNAVAILABLE]);
      expect(selects).to.have.lengthOf(1);
    });
  });

  describe('abort', () => {
    it('rejects waiting payments at once', async () => {
      const { clock, recorder, ledger, inserts, entries } = setUp();
      ledger.isAway = true;
      const states = watch([1, 2].map((n) => recorder.record(paid(n))));
      await clock.tickAsync(RETRY_MS / 2);
      recorder.abort();
      await clock.tickAsync(1);
      expect(states).to.deep.equal([UNAVAILABLE, UNAVAILABLE]);
      await clock.tickAsync(60_000);
      expect(inserts).to.deep.equal([[1, 2]]);
      // The next worker records them, so no person has to act.
      expect(entries.filter(({ level }) => level === 'error')).to.deep.equal([]);
    });

    it('waits no longer for a PostgreSQL that hangs, nor lets those behind it try', async () => {
      const { clock, recorder, ledger, inserts } = setUp();
      ledger.hangs = true;
      const payments = watch([recorder.record(paid(1))]);
      const lookUps = watch([isRecorded(recorder, id(1))]);
      await clock.tickAsync(0);
      const behind = watch([recorder.record(paid(2))]);
      recorder.abortLookUps();
      await clock.tickAsync(0);
      expect(lookUps[0]).to.be.instanceOf(LedgerUnavailableError);
      expect(payments).to.deep.equal(['pending']);
      recorder.abort();
      await clock.tickAsync(0);
      expect(payments[0]).to.be.instanceOf(LedgerUnavailableError);
      expect(behind[0]).to.be.instanceOf(LedgerUnavailableError);
      expect(inserts).to.deep.equal([[1]]);
    });

    it('still records what PostgreSQL takes', async () => {
      const { clock, recorder, rows } = setUp();
      recorder.abort();
      const states = watch([recorder.record(paid(1))]);
      await clock.tickAsync(0);
      expect(states).to.deep.equal(['done']);
      expect([...rows]).to.deep.equal([id(1)]);
    });
  });

  describe('close', () => {
    it('rejects new work', async () => {
      const { recorder } = setUp();
      await recorder.close();
      const failures = await Promise.all(
        [recorder.record(paid(1)), isRecorded(recorder, id(1))].map((work: Promise<unknown>) =>
          work.catch((error: unknown) => error),
        ),
      );
      for (const error of failures) expect(error).to.be.instanceOf(BatcherClosedError);
    });

    it('resolves when all that was accepted is settled', async () => {
      const { clock, recorder, ledger, rows } = setUp();
      ledger.isAway = true;
      const states = watch([recorder.record(paid(1)), isRecorded(recorder, id(1)), recorder.close()]);
      await clock.tickAsync(60_000);
      expect(states).to.deep.equal(['pending', 'pending', 'pending']);
      ledger.isAway = false;
      await clock.tickAsync(RETRY_MS);
      expect(states).to.not.include('pending');
      expect([...rows]).to.deep.equal([id(1)]);
    });
  });
});
