import { expect } from 'chai';
import { LedgerUnavailableError } from '../../../src/errors.ts';
import {
  ALREADY_PAID,
  FREE,
  ID,
  ON_RECORD,
  PAID,
  POOL_TIMEOUT,
  REFUSED,
  REQUEUED_CLEAN,
  STATES,
  UNKNOWN,
  UNPROVEN,
  UNREACHABLE,
} from './given.ts';
import { expectRequeue, open, stage, stateOf } from './stage.ts';

describe('processPayment, at the primary', () => {
  it('pays at the primary and records what it has on record', async () => {
    const { run, events, sent, recorded } = stage({ primary: [PAID] });
    expect(await run()).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'send to primary', 'record']);
    expect(sent).to.deep.equal([{ correlationId: ID, amountCents: 1990 }]);
    expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'primary', ...ON_RECORD }]);
  });

  it('sends the id in its normal form', async () => {
    const { run, sent } = stage({ primary: [PAID] });
    await run({ payload: { correlationId: ID.toUpperCase(), amount: 0.01 } });
    expect(sent).to.deep.equal([{ correlationId: ID, amountCents: 1 }]);
  });

  it('resolves only when the payment is recorded', async () => {
    const committed = Promise.withResolvers<void>();
    const { start, clock, events } = stage({ primary: [PAID], record: () => committed.promise });
    const running = start();
    await clock.tickAsync(60_000);
    expect(events).to.include('record');
    expect(running.end).to.equal(undefined);
    committed.resolve();
    await clock.tickAsync(0);
    expect(running.end).to.equal('completed');
  });

  it('logs each recorded payment at debug and nothing above', async () => {
    const { run, entries } = stage({ primary: [PAID] });
    await run();
    expect(entries.map(({ level }) => level)).to.deep.equal(['debug']);
    expect(entries[0]).to.include({ correlationId: ID, gateway: 'primary' });
  });

  it('records what the primary had on record before, even with another amount', async () => {
    const onRecord = { amountCents: 5, requestedAt: new Date('2025-07-15T11:00:00.000Z') };
    const { run, recorded } = stage({ primary: [{ kind: 'already_paid', onRecord }] });
    expect(await run()).to.equal('completed');
    expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'primary', ...onRecord }]);
  });

  it('records nothing and requeues as unresolved after a 422 without proof of what is on record', async () => {
    const { run, events } = stage({ primary: [UNPROVEN] });
    expectRequeue(await run(), { end: 'unresolved', pause: 'tied', code: 'http_422' });
    expect(events).to.deep.equal(['look up', 'send to primary']);
  });

  it('requeues as unresolved with the pauses of a tied payment after an unknown attempt', async () => {
    const { run } = stage({ primary: [UNKNOWN] });
    expectRequeue(await run(), { end: 'unresolved', pause: 'tied', code: 'http_502' });
  });

  it('requeues as clean with a short backoff after a refused attempt', async () => {
    const { run, events } = stage({ primary: [REFUSED] });
    expectRequeue(await run(), { end: 'clean', pause: 'backoff', code: 'http_429', atLeastMs: 0 });
    expect(events).to.deep.equal(['look up', 'send to primary']);
  });

  it('gives the gateway, the outcome and its cause as the reason', async () => {
    const { run } = stage({ primary: [UNREACHABLE] });
    const { message } = (await run()) as Error;
    expect(message).to.include('primary').and.include('not_sent').and.include(UNREACHABLE.cause.detail);
  });

  it('requeues a refused payment with the pause that the gateway asked for', async () => {
    const { run, primary } = stage({ primary: [PAID, { ...REFUSED, retryAfterMs: 7_000 }] });
    await run();
    expectRequeue(await run(), { end: 'clean', pause: 'backoff', atLeastMs: 7_000 });
    expect(stateOf(primary)).to.equal('closed');
  });

  it('requeues as unresolved when the payment is paid and cannot be recorded', async () => {
    for (const outcome of [PAID, ALREADY_PAID]) {
      const record = () => Promise.reject(new LedgerUnavailableError('no reply'));
      const { run, events } = stage({ primary: [outcome], record });
      expectRequeue(await run(), { end: 'unresolved', pause: 'backoff', code: 'ledger_unavailable' });
      expect(events.at(-1)).to.equal('record');
    }
  });

  it('tells the gateway which attempt is the first at it', async () => {
    const { run, histories } = stage({ primary: [PAID, PAID] });
    await run(FREE);
    await run(REQUEUED_CLEAN);
    expect(histories).to.deep.equal([
      { isFirst: true, isUnresolved: false, onNewConnection: false },
      { isFirst: false, isUnresolved: false, onNewConnection: false },
    ]);
  });

  it('counts at the circuit the attempts that prove something about the primary', async () => {
    const rows = [
      { outcome: PAID, state: 'closed' },
      { outcome: ALREADY_PAID, state: 'closed' },
      { outcome: UNPROVEN, state: 'closed' },
      { outcome: POOL_TIMEOUT, state: 'closed' },
      { outcome: REFUSED, state: 'open' },
      { outcome: UNREACHABLE, state: 'open' },
      { outcome: UNKNOWN, state: 'open' },
    ] as const;
    for (const { outcome, state } of rows) {
      const { start, primary, fallback, clock } = stage({ primary: [outcome, outcome, outcome] });
      await open(fallback, REFUSED);
      for (const digit of [1, 2, 3]) {
        start({ payload: { correlationId: `${ID.slice(0, -1)}${digit}`, amount: 1 } });
        await clock.tickAsync(0);
      }
      expect(stateOf(primary), JSON.stringify(outcome)).to.equal(state);
    }
  });
});

describe('processPayment, before the first send', () => {
  it('completes a recorded payment without a send, whatever its state', async () => {
    for (const state of STATES) {
      const { run, events } = stage({ lookUp: async () => ({ isRecorded: true, tiedTo: undefined }) });
      expect(await run(state)).to.equal('completed');
      expect(events).to.deep.equal(['look up']);
    }
  });

  it('sends nothing while the ledger does not reply, whatever the state of the payment', async () => {
    for (const state of STATES) {
      const { start, clock, events } = stage({ lookUp: () => new Promise(() => {}) });
      const running = start(state);
      await clock.tickAsync(60_000);
      expect(events).to.deep.equal(['look up']);
      expect(running.end).to.equal(undefined);
    }
  });

  it('requeues as clean with a pause when the look-up in the ledger fails, whatever the state', async () => {
    for (const state of STATES) {
      const { run, events } = stage({ lookUp: () => Promise.reject(new LedgerUnavailableError('no reply')) });
      expectRequeue(await run(state), { end: 'clean', pause: 'backoff', code: 'ledger_unavailable' });
      expect(events).to.deep.equal(['look up']);
    }
  });
});
