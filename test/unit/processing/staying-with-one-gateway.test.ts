import { expect } from 'chai';
import type { LookUp } from '../../../src/ledger/dead-letters.ts';
import {
  ALREADY_PAID,
  BOUND,
  BOUND_AND_DOUBTED,
  BOUND_AND_UNRESOLVED,
  DOUBTED,
  DOUBTFUL,
  EAGER,
  FREE,
  ID,
  lostLock,
  NO_RESPONSE,
  ON_NEVER,
  ON_RECORD,
  PAID,
  POOL_TIMEOUT,
  REFUSED,
  UNKNOWN,
  UNREACHABLE,
  UNRESOLVED,
} from './given.ts';
import {
  anotherPaymentAt,
  expectRequeue,
  open,
  openWithoutProbes,
  PROBE_INTERVAL_MS,
  stage,
  stateOf,
} from './stage.ts';

const tiedTo = (gateway: LookUp['tiedTo']) => async (): Promise<LookUp> => ({ isRecorded: false, tiedTo: gateway });

/** A gateway without a free connection is well, so the payment comes back soon. */
const pauseAfter = (outcome: unknown) => (outcome === POOL_TIMEOUT ? 'crowded' : 'tied');

describe('processPayment, with an attempt at the primary that may be paid', () => {
  it('pays at the primary', async () => {
    for (const state of [UNRESOLVED, DOUBTED]) {
      const { run, events } = stage({ primary: [PAID] });
      expect(await run(state)).to.equal('completed');
      expect(events).to.deep.equal(['look up', 'send to primary', 'record']);
    }
  });

  it('records what the primary has on record', async () => {
    const { run, recorded } = stage({ primary: [ALREADY_PAID] });
    expect(await run(UNRESOLVED)).to.equal('completed');
    expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'primary', ...ON_RECORD }]);
  });

  it('does not use the fallback after an attempt that certainly did not pay, whatever the policy', async () => {
    for (const policy of EAGER) {
      for (const outcome of [POOL_TIMEOUT, UNREACHABLE, REFUSED]) {
        const unresolved = stage({ primary: [outcome], policy });
        expectRequeue(await unresolved.run({ ...UNRESOLVED, ageMs: 1e9 }), {
          end: 'clean',
          pause: pauseAfter(outcome),
        });
        expect(unresolved.events).to.deep.equal(['look up', 'send to primary']);
        const doubted = stage({ primary: [outcome], policy });
        expectRequeue(await doubted.run({ ...DOUBTED, ageMs: 1e9 }), { end: 'clean', pause: 'doubted' });
        expect(doubted.events).to.deep.equal(['look up', 'send to primary']);
      }
    }
  });

  it('waits for the primary however long it is down, whatever the policy', async () => {
    for (const policy of EAGER) {
      const { start, clock, events, primary } = stage({ policy });
      await openWithoutProbes(primary, UNREACHABLE);
      const running = start({ ...UNRESOLVED, ageMs: 1e9 });
      await clock.tickAsync(60_000);
      expect(running.end).to.equal(undefined);
      expect(events).to.deep.equal(['look up']);
    }
  });

  it('stays with the primary for the rest of the run after a probe without a response, whatever the policy', async () => {
    for (const policy of EAGER) {
      const script = [NO_RESPONSE, UNREACHABLE, POOL_TIMEOUT, REFUSED, UNREACHABLE, PAID];
      const { start, clock, events, primary, fallback } = stage({ primary: script, policy });
      await open(primary, REFUSED);
      await clock.tickAsync(PROBE_INTERVAL_MS); // the payment is the probe at once, before any policy can apply
      const running = start();
      await clock.tickAsync(script.length * PROBE_INTERVAL_MS);
      expect(running.end).to.equal('completed');
      expect(events).to.deep.equal(['look up', ...script.map(() => 'send to primary'), 'record']);
      expect(stateOf(fallback)).to.equal('closed');
    }
  });

  it('is unresolved again after an unknown attempt', async () => {
    const { run } = stage({ primary: [UNKNOWN] });
    expectRequeue(await run(UNRESOLVED), { end: 'unresolved', pause: 'tied' });
  });

  it('tells the gateway that an earlier attempt may be paid', async () => {
    const { run, histories } = stage({ primary: [PAID] });
    await run(UNRESOLVED);
    expect(histories).to.deep.equal([{ isFirst: false, isUnresolved: true, onNewConnection: false }]);
  });
});

describe('processPayment, bound to the fallback', () => {
  it('pays at the fallback without an attempt at the primary, and does not bind it again', async () => {
    for (const state of [BOUND, BOUND_AND_UNRESOLVED, BOUND_AND_DOUBTED]) {
      for (const outcome of [PAID, ALREADY_PAID]) {
        const { run, events, recorded } = stage({ fallback: [outcome] });
        expect(await run(state)).to.equal('completed');
        expect(events).to.deep.equal(['look up', 'send to fallback', 'record']);
        expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'fallback', ...ON_RECORD }]);
      }
    }
  });

  it('pays at the fallback under FALLBACK_ON=never, too', async () => {
    const { run, events } = stage({ fallback: [PAID], policy: ON_NEVER });
    expect(await run(BOUND)).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'send to fallback', 'record']);
  });

  it('keeps the binding after an attempt that did not pay', async () => {
    const rows = [
      { outcome: REFUSED, end: 'clean' },
      { outcome: UNREACHABLE, end: 'clean' },
      { outcome: POOL_TIMEOUT, end: 'clean' },
      { outcome: UNKNOWN, end: 'unresolved' },
    ] as const;
    for (const { outcome, end } of rows) {
      for (const state of [BOUND, BOUND_AND_UNRESOLVED]) {
        const { run, events } = stage({ fallback: [outcome] });
        expectRequeue(await run(state), { end, pause: pauseAfter(outcome) });
        expect(events).to.deep.equal(['look up', 'send to fallback']);
      }
    }
  });

  it('stays in flight while the circuit of the fallback is open, and pays on its recovery', async () => {
    const { start, clock, sends, fallback } = stage({ fallback: [REFUSED, UNREACHABLE, UNKNOWN, PAID] });
    await open(fallback, REFUSED);
    const running = start(BOUND);
    await clock.tickAsync(3 * PROBE_INTERVAL_MS);
    expect(sends('fallback')).to.equal(3);
    expect(running.end).to.equal(undefined);
    await clock.tickAsync(PROBE_INTERVAL_MS);
    expect(running.end).to.equal('completed');
    expect(stateOf(fallback)).to.equal('closed');
  });
});

describe('processPayment, tied by a dead letter', () => {
  it('stays with the primary, whatever the policy', async () => {
    for (const policy of EAGER) {
      for (const outcome of [POOL_TIMEOUT, UNREACHABLE, REFUSED]) {
        const { run, events } = stage({ primary: [outcome], policy, lookUp: tiedTo('primary') });
        expectRequeue(await run({ ...FREE, ageMs: 1e9 }), { end: 'clean', pause: pauseAfter(outcome) });
        expect(events).to.deep.equal(['look up', 'send to primary']);
      }
    }
  });

  it('binds the payment to the fallback before its first send there', async () => {
    const { run, events, recorded } = stage({ fallback: [PAID], lookUp: tiedTo('fallback') });
    expect(await run(FREE)).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'bind to fallback', 'send to fallback', 'record']);
    expect(recorded[0]).to.include({ gateway: 'fallback' });
  });

  it('writes the binding even while the circuit of the fallback is open', async () => {
    const { start, clock, events, fallback } = stage({ lookUp: tiedTo('fallback') });
    await openWithoutProbes(fallback, REFUSED);
    const running = start(FREE);
    await clock.tickAsync(60_000);
    expect(events).to.deep.equal(['look up', 'bind to fallback']);
    expect(running.end).to.equal(undefined);
  });

  it('sends nothing to the fallback when this run no longer owns the job', async () => {
    const { run, events } = stage({ lookUp: tiedTo('fallback') });
    expectRequeue(await run({ bindTo: lostLock }), { end: 'unresolved', pause: 'backoff', code: 'lock_lost' });
    expect(events).to.deep.equal(['look up', 'bind to fallback']);
  });

  it('stays bound to the fallback after an attempt that certainly did not pay there', async () => {
    const { run, events } = stage({ fallback: [REFUSED], lookUp: tiedTo('fallback') });
    expectRequeue(await run(FREE), { end: 'clean', pause: 'tied' });
    expect(events).to.not.include('release');
  });

  it('goes to the fallback after a run that died before the binding', async () => {
    const { run, events } = stage({ fallback: [PAID], lookUp: tiedTo('fallback') });
    expect(await run(UNRESOLVED)).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'bind to fallback', 'send to fallback', 'record']);
  });

  it('tells the gateway that its first send is not the first attempt there', async () => {
    const { run, histories } = stage({ primary: [PAID], lookUp: tiedTo('primary') });
    await run(FREE);
    expect(histories).to.deep.equal([{ isFirst: false, isUnresolved: true, onNewConnection: false }]);
  });
});

describe('processPayment, the places of tied payments at an open circuit', () => {
  it('goes back to the queue with the cause of the circuit when no place is left', async () => {
    const { run, events, primary } = stage({ places: 0 });
    await openWithoutProbes(primary, UNREACHABLE);
    expectRequeue(await run(UNRESOLVED), { end: 'clean', pause: 'tied', code: 'ECONNREFUSED' });
    expect(events).to.deep.equal(['look up']);
  });

  it('notes once for each cause why it waits in the worker', async () => {
    const { start, clock, primary, notes, sends } = stage({ primary: [UNKNOWN, UNKNOWN, UNREACHABLE, PAID] });
    await open(primary, UNKNOWN);
    start(UNRESOLVED);
    await clock.tickAsync(4 * PROBE_INTERVAL_MS);
    expect(sends('primary')).to.equal(4);
    expect(notes.map(({ code }) => code)).to.deep.equal(['http_502', 'ECONNREFUSED']);
  });

  it('notes nothing while the circuit is closed', async () => {
    const { run, notes } = stage({ primary: [UNKNOWN] });
    await run(UNRESOLVED);
    expect(notes).to.deep.equal([]);
  });

  it('shares the places between the circuits of both gateways', async () => {
    const { start, run, clock, primary, fallback, tiedPlaces } = stage({ places: 1 });
    await openWithoutProbes(primary, UNREACHABLE);
    await openWithoutProbes(fallback, REFUSED);
    const running = start(UNRESOLVED);
    await clock.tickAsync(0);
    expect(tiedPlaces.taken).to.equal(1);
    expectRequeue(await run(BOUND), { end: 'clean', pause: 'tied', code: 'http_429' });
    expect(running.end).to.equal(undefined);
  });

  it('keeps an unknown probe in flight, with a note why, until another tied payment comes', async () => {
    const { start, run, clock, primary, notes } = stage({ primary: [UNKNOWN], places: 1 });
    await open(primary, REFUSED);
    const first = start();
    await clock.tickAsync(PROBE_INTERVAL_MS);
    expect(first.end).to.equal(undefined);
    expect(notes.map(({ code }) => code)).to.deep.equal(['http_502']);
    const second = run(UNRESOLVED);
    await clock.tickAsync(0);
    expectRequeue(first.end, { end: 'unresolved', pause: 'tied', code: 'http_502' });
    primary.circuit.close();
    expectRequeue(await second, { end: 'clean', pause: 'none' });
  });

  it('goes back as unresolved or doubtful when its probe did not pay and no place is left', async () => {
    const rows = [
      { outcome: UNKNOWN, end: 'unresolved', pause: 'tied' },
      { outcome: DOUBTFUL, end: 'doubtful', pause: 'doubted' },
    ] as const;
    for (const { outcome, ...expected } of rows) {
      const { start, clock, primary } = stage({ primary: [outcome], places: 0 });
      await open(primary, REFUSED);
      const running = start();
      await clock.tickAsync(PROBE_INTERVAL_MS);
      expectRequeue(running.end, expected);
    }
  });

  it('gives its place back when it leaves', async () => {
    const { start, clock, primary, tiedPlaces } = stage({ primary: [PAID], places: 1 });
    await open(primary, REFUSED);
    const running = start(UNRESOLVED);
    await clock.tickAsync(PROBE_INTERVAL_MS);
    expect(running.end).to.equal('completed');
    expect(tiedPlaces.taken).to.equal(0);
  });

  it('goes back with the pause that the gateway asked this payment for when another one was paid', async () => {
    const { start, clock, primary } = stage({ primary: [{ ...UNKNOWN, retryAfterMs: 20_000 }] });
    const end = anotherPaymentAt(primary);
    await open(primary, REFUSED);
    const running = start();
    await clock.tickAsync(PROBE_INTERVAL_MS + 5_000);
    await end(PAID);
    await clock.tickAsync(0);
    expectRequeue(running.end, { end: 'unresolved', pause: 'tied', atLeastMs: 15_000 });
  });
});

describe('processPayment, in a run that may have lost its job', () => {
  it('sends nothing to any gateway, whatever earlier runs have left behind', async () => {
    for (const state of [FREE, UNRESOLVED]) {
      const { run, events } = stage({ primary: [PAID], fallback: [PAID] });
      expect(await run({ ...state, isOwned: false })).to.include({ code: 'lock_lost', end: 'clean' });
      expect(events).to.deep.equal(['look up']);
    }
  });
});
