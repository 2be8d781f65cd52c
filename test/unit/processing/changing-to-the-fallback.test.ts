import { expect } from 'chai';
import { LedgerUnavailableError } from '../../../src/errors.ts';
import { RequeueError } from '../../../src/processing/payment-run.ts';
import {
  AFTER_5_S,
  ALREADY_PAID,
  DOUBTFUL,
  EAGER,
  FREE,
  ID,
  lostLock,
  NO_RESPONSE,
  ON_NEVER,
  ON_NOT_SENT,
  ON_POOL_TIMEOUT,
  ON_RECORD,
  PAID,
  POOL_TIMEOUT,
  REFUSED,
  REQUEUED_CLEAN,
  UNKNOWN,
  UNREACHABLE,
} from './given.ts';
import { expectRequeue, open, openWithoutProbes, PROBE_INTERVAL_MS, stage, stateOf } from './stage.ts';

const CHANGED = ['look up', 'send to primary', 'bind to fallback', 'send to fallback', 'record'];

describe('processPayment, changing to the fallback', () => {
  it('binds the payment, then pays at the fallback, when the routing rule allows it', async () => {
    const rows = [
      { outcome: POOL_TIMEOUT, policy: ON_POOL_TIMEOUT, ageMs: 0 },
      { outcome: POOL_TIMEOUT, policy: ON_NOT_SENT, ageMs: 0 },
      { outcome: UNREACHABLE, policy: ON_NOT_SENT, ageMs: 0 },
      { outcome: UNREACHABLE, policy: AFTER_5_S, ageMs: 5_000 },
      { outcome: REFUSED, policy: AFTER_5_S, ageMs: 5_000 },
    ];
    for (const { outcome, policy, ageMs } of rows) {
      for (const state of [FREE, REQUEUED_CLEAN]) {
        const { run, events, recorded } = stage({ primary: [outcome], fallback: [PAID], policy });
        expect(await run({ ...state, ageMs })).to.equal('completed');
        expect(events).to.deep.equal(CHANGED);
        expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'fallback', ...ON_RECORD }]);
      }
    }
  });

  it('does not use the fallback when the routing rule does not allow it', async () => {
    const rows = [
      { outcome: REFUSED, policy: ON_POOL_TIMEOUT, ageMs: 1e9, end: 'clean' },
      { outcome: UNREACHABLE, policy: ON_POOL_TIMEOUT, ageMs: 1e9, end: 'clean' },
      { outcome: REFUSED, policy: ON_NOT_SENT, ageMs: 1e9, end: 'clean' },
      { outcome: REFUSED, policy: AFTER_5_S, ageMs: 4_999, end: 'clean' },
      { outcome: UNREACHABLE, policy: AFTER_5_S, ageMs: 4_999, end: 'clean' },
      { outcome: UNKNOWN, policy: ON_NOT_SENT, ageMs: 1e9, end: 'unresolved' },
      { outcome: NO_RESPONSE, policy: AFTER_5_S, ageMs: 1e9, end: 'unresolved' },
      { outcome: DOUBTFUL, policy: AFTER_5_S, ageMs: 1e9, end: 'doubtful' },
    ];
    for (const { outcome, policy, ageMs, end } of rows) {
      const { run, events } = stage({ primary: [outcome], policy });
      expect(await run({ ageMs }))
        .to.be.instanceOf(RequeueError)
        .and.include({ end });
      expect(events).to.deep.equal(['look up', 'send to primary']);
    }
  });

  it('sends nothing to the fallback before the binding is written', async () => {
    const { start, clock, events } = stage({ primary: [POOL_TIMEOUT], fallback: [PAID] });
    start({ bindTo: () => new Promise(() => {}) });
    await clock.tickAsync(60_000);
    expect(events).to.deep.equal(['look up', 'send to primary', 'bind to fallback']);
  });

  it('sends nothing to the fallback when this run no longer owns the job', async () => {
    const { run, events } = stage({ primary: [POOL_TIMEOUT] });
    expectRequeue(await run({ bindTo: lostLock }), { end: 'unresolved', pause: 'backoff', code: 'lock_lost' });
    expect(events).to.deep.equal(['look up', 'send to primary', 'bind to fallback']);
  });

  it('sends nothing to the fallback when the binding cannot be written', async () => {
    const { run, events } = stage({ primary: [POOL_TIMEOUT] });
    const lost = new Error('Connection is closed.');
    expect(await run({ bindTo: () => Promise.reject(lost) })).to.equal(lost);
    expect(events).to.deep.equal(['look up', 'send to primary', 'bind to fallback']);
  });

  it('writes no binding while the circuit of the fallback is open', async () => {
    const { run, events, fallback } = stage({ primary: [POOL_TIMEOUT] });
    await openWithoutProbes(fallback, REFUSED);
    expectRequeue(await run(), { end: 'clean', pause: 'backoff' });
    expect(events).to.deep.equal(['look up', 'send to primary']);
  });

  it('writes one binding for one probe of the fallback, however many payments wait for it', async () => {
    const { start, clock, events, primary, fallback } = stage({
      fallback: () => new Promise(() => {}),
      policy: ON_NOT_SENT,
    });
    await openWithoutProbes(primary, UNREACHABLE);
    await open(fallback, UNREACHABLE);
    const running = Array.from({ length: 20 }, () => start());
    await clock.tickAsync(0);
    await clock.tickAsync(PROBE_INTERVAL_MS + 100);
    expect(events.filter((event) => event !== 'look up')).to.deep.equal(['bind to fallback', 'send to fallback']);
    expect(running.map(({ end }) => end)).to.deep.equal(running.map(() => undefined));
  });

  it('releases the payment and requeues it as clean when the fallback certainly does not have it', async () => {
    for (const outcome of [REFUSED, UNREACHABLE, POOL_TIMEOUT]) {
      const { run, events } = stage({ primary: [POOL_TIMEOUT], fallback: [outcome] });
      expectRequeue(await run(), { end: 'clean', pause: 'backoff', code: outcome.cause.code });
      expect(events).to.deep.equal(['look up', 'send to primary', 'bind to fallback', 'send to fallback', 'release']);
    }
  });

  it('requeues as unresolved when the payment can no longer be released', async () => {
    const { run } = stage({ primary: [POOL_TIMEOUT], fallback: [REFUSED] });
    const end = await run({ release: lostLock });
    expectRequeue(end, { end: 'unresolved', pause: 'backoff', code: 'lock_lost' });
  });

  it('keeps the binding after an unknown or doubtful attempt at the fallback', async () => {
    const rows = [
      { outcome: UNKNOWN, end: 'unresolved', pause: 'tied' },
      { outcome: NO_RESPONSE, end: 'unresolved', pause: 'tied' },
      { outcome: DOUBTFUL, end: 'doubtful', pause: 'doubted' },
    ] as const;
    for (const { outcome, ...expected } of rows) {
      const { run, events } = stage({ primary: [POOL_TIMEOUT], fallback: [outcome] });
      expectRequeue(await run(), expected);
      expect(events).to.deep.equal(['look up', 'send to primary', 'bind to fallback', 'send to fallback']);
    }
  });

  it('keeps the binding of a payment that was paid and cannot be recorded', async () => {
    const record = () => Promise.reject(new LedgerUnavailableError('no reply'));
    const { run, events } = stage({ primary: [POOL_TIMEOUT], fallback: [PAID], record });
    expectRequeue(await run(), { end: 'unresolved', pause: 'backoff', code: 'ledger_unavailable' });
    expect(events.at(-1)).to.equal('record');
  });

  it('records a payment that the fallback had on record before', async () => {
    const { run, recorded } = stage({ primary: [POOL_TIMEOUT], fallback: [ALREADY_PAID] });
    expect(await run()).to.equal('completed');
    expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'fallback', ...ON_RECORD }]);
  });

  it('closes the circuit of the fallback as its probe', async () => {
    const { run, fallback, clock } = stage({ primary: [POOL_TIMEOUT], fallback: [PAID] });
    await open(fallback, REFUSED);
    await clock.tickAsync(PROBE_INTERVAL_MS);
    expect(await run()).to.equal('completed');
    expect(stateOf(fallback)).to.equal('closed');
  });

  it('sends few payments into a silent fallback, also of those that were requeued before', async () => {
    const { start, clock, sends, primary, fallback } = stage({
      fallback: () => NO_RESPONSE,
      policy: ON_NOT_SENT,
      places: 0,
    });
    await openWithoutProbes(primary, UNREACHABLE);
    await open(fallback, NO_RESPONSE);
    for (let payment = 0; payment < 100; payment += 1) start(REQUEUED_CLEAN);
    await clock.tickAsync(60_000);
    // 20 different ones in a row, then one every 5 s.
    expect(sends('fallback')).to.be.within(21, 32);
  });
});

describe('processPayment, with a slow primary', () => {
  it('sends an old payment to the fallback without waiting for a connection when none is free', async () => {
    const { run, events, hasFreeConnection } = stage({ fallback: [PAID], policy: AFTER_5_S });
    hasFreeConnection.primary = false;
    expect(await run({ ageMs: 5_000 })).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'bind to fallback', 'send to fallback', 'record']);
  });

  it('sends a payment to the fallback at once when a wait for a connection would be in vain', async () => {
    const { run, events, hasFreeConnection, wouldWaitInVain } = stage({ fallback: [PAID], policy: ON_POOL_TIMEOUT });
    hasFreeConnection.primary = false;
    wouldWaitInVain.primary = true;
    expect(await run({ ageMs: 0 })).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'bind to fallback', 'send to fallback', 'record']);
  });

  it('sends an old payment to the primary when a connection is free, however old it is', async () => {
    const { run, events } = stage({ primary: [PAID], policy: AFTER_5_S });
    expect(await run({ ageMs: 1e9 })).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'send to primary', 'record']);
  });

  it('lets a younger payment wait for a connection to the primary', async () => {
    const { run, events, hasFreeConnection } = stage({ primary: [PAID], policy: AFTER_5_S });
    hasFreeConnection.primary = false;
    expect(await run({ ageMs: 4_999 })).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'send to primary', 'record']);
  });

  it('sends an old payment to the primary while the fallback does not accept', async () => {
    const { run, events, hasFreeConnection, fallback } = stage({ primary: [PAID], policy: AFTER_5_S });
    hasFreeConnection.primary = false;
    await openWithoutProbes(fallback, REFUSED);
    expect(await run({ ageMs: 5_000 })).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'send to primary', 'record']);
  });

  it('counts the time of the attempt at the primary', async () => {
    const attempt = Promise.withResolvers<typeof REFUSED>();
    const { start, clock, events } = stage({ primary: () => attempt.promise, fallback: [PAID], policy: AFTER_5_S });
    const running = start({ ageMs: 3_000 });
    await clock.tickAsync(2_000);
    attempt.resolve(REFUSED);
    await clock.tickAsync(0);
    expect(running.end).to.equal('completed');
    expect(events).to.deep.equal(CHANGED);
  });

  it('never uses the fallback under FALLBACK_ON=never, or without FALLBACK_AFTER_MS', async () => {
    for (const policy of [ON_NEVER, { ...ON_NEVER, afterMs: 0 }, ON_POOL_TIMEOUT, ON_NOT_SENT]) {
      const { run, sends, hasFreeConnection } = stage({ primary: [PAID], policy });
      hasFreeConnection.primary = false;
      expect(await run({ ageMs: 1e9 })).to.equal('completed');
      expect(sends('fallback')).to.equal(0);
    }
  });

  it('never sends a tied payment to the fallback, whatever the policy', async () => {
    for (const policy of EAGER) {
      const { run, sends, hasFreeConnection } = stage({ primary: [PAID], policy });
      hasFreeConnection.primary = false;
      const history = { runs: 1, isUnresolved: true, doubts: 0, doubtedSinceMs: undefined };
      expect(await run({ ageMs: 1e9, history })).to.equal('completed');
      expect(sends('fallback')).to.equal(0);
    }
  });
});
