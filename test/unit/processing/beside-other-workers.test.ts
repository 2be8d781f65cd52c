import { expect } from 'chai';
import type { ProbeAnswer, ProbeRight } from '../../../src/gateways/probes.ts';
import { AFTER_5_S, FREE, ON_NEVER, ON_NOT_SENT, ON_POOL_TIMEOUT, PAID, UNREACHABLE } from './given.ts';
import { open, openWithoutProbes, PROBE_INTERVAL_MS, stage } from './stage.ts';

const TO_FALLBACK = ['look up', 'bind to fallback', 'send to fallback', 'record'];

const NEW_PROBES = { newNotTaken: 0, newSentAgoMs: Number.POSITIVE_INFINITY };

/** Another worker has the right at first. `free()` gives it back. */
function heldRight() {
  let isHeld = true;
  const right: ProbeRight = {
    hasOthers: true,
    ask: async (): Promise<ProbeAnswer> =>
      isHeld ? { kind: 'held', forMs: PROBE_INTERVAL_MS, ...NEW_PROBES } : { kind: 'granted', ...NEW_PROBES },
    tell() {},
    end() {},
  };
  return {
    right,
    free() {
      isHeld = false;
    },
  };
}

describe('processPayment, while another worker has the right to probe', () => {
  it('keeps a free payment in the worker, unbound, and pays it at the fallback when the right is free', async () => {
    const { right, free } = heldRight();
    const { start, clock, events, primary, fallback } = stage({
      ...{ fallback: [PAID], policy: ON_NOT_SENT, rights: { fallback: right } },
    });
    await openWithoutProbes(primary, UNREACHABLE);
    await open(fallback, UNREACHABLE);
    const running = start(FREE);
    await clock.tickAsync(30_000);
    expect(running.end).to.equal(undefined);
    expect(events).to.deep.equal(['look up']);
    free();
    await clock.tickAsync(1_000);
    expect(running.end).to.equal('completed');
    expect(events).to.deep.equal(TO_FALLBACK);
  });

  it('looks again at the primary when the wait is over: a stop is no failed connection', async () => {
    const right: ProbeRight = {
      hasOthers: true,
      ask: () =>
        new Promise((resolve) =>
          setTimeout(() => resolve({ kind: 'held', forMs: PROBE_INTERVAL_MS, ...NEW_PROBES }), 100),
        ),
      tell() {},
      end() {},
    };
    const { start, clock, sends, primary } = stage({
      ...{ fallback: () => PAID, policy: ON_NOT_SENT, rights: { primary: right } },
    });
    await open(primary, UNREACHABLE);
    await clock.tickAsync(1_000);
    const running = start(FREE);
    await clock.tickAsync(10);
    primary.circuit.steer('stopped');
    await clock.tickAsync(1_000);
    expect(sends('fallback')).to.equal(0);
    expect(running.end).to.equal(undefined);
  });

  it('sends nothing to the primary', async () => {
    const { right, free } = heldRight();
    const { start, clock, sends, primary } = stage({ primary: [PAID], policy: ON_NEVER, rights: { primary: right } });
    await open(primary, UNREACHABLE);
    const running = start();
    await clock.tickAsync(30_000);
    expect(sends('primary')).to.equal(0);
    free();
    await clock.tickAsync(1_000);
    expect(running.end).to.equal('completed');
  });
});

describe("processPayment, with more payments than this worker's share of the requests", () => {
  const never = () => new Promise<typeof PAID>(() => {});

  /** A primary that pays, and its first payment only when that is resolved. */
  function firstHeld() {
    const first = Promise.withResolvers<typeof PAID>();
    let sent = 0;
    const primary = () => {
      sent += 1;
      return sent === 1 ? first.promise : PAID;
    };
    return { primary, first };
  }

  it('lets a payment wait for a place, however long that is: it is no pool_timeout', async () => {
    const { primary, first } = firstHeld();
    const { start, clock, sends } = stage({
      primary,
      fallback: [PAID],
      policy: ON_POOL_TIMEOUT,
      shares: { primary: 1 },
    });
    start();
    const waits = start();
    await clock.tickAsync(600_000);
    expect(waits.end).to.equal(undefined);
    expect(sends('fallback')).to.equal(0);
    first.resolve(PAID);
    await clock.tickAsync(0);
    expect(waits.end).to.equal('completed');
    expect(sends('primary')).to.equal(2);
  });

  it('never takes a wait for a place for a failed connection', async () => {
    const { start, clock, sends, primary, fallback } = stage({
      ...{ primary: never, fallback: () => PAID, policy: ON_NOT_SENT, shares: { primary: 1 } },
    });
    // The only place is taken, another worker's connections fail, and nothing goes to the fallback: the payment waits for both.
    start();
    await clock.tickAsync(0);
    primary.circuit.hear({
      ...{ paidAtMs: Number.NEGATIVE_INFINITY, hasWitness: true },
      down: { ...UNREACHABLE.cause, evidence: 'not_sent', since: new Date(0) },
    });
    await openWithoutProbes(fallback, UNREACHABLE, 200);
    const waits = start();
    await clock.tickAsync(150);
    primary.circuit.hear({ paidAtMs: performance.now(), down: undefined, hasWitness: true });
    await clock.tickAsync(10_000);
    expect(primary.circuit.cause).to.equal(undefined);
    expect(sends('fallback')).to.equal(0);
    expect(waits.end).to.equal(undefined);
  });

  it('goes to the fallback at once when the primary became unreachable during the wait', async () => {
    const first = Promise.withResolvers<typeof UNREACHABLE>();
    const { start, clock, sends, primary } = stage({
      ...{ primary: () => first.promise, fallback: () => PAID, policy: ON_NOT_SENT, shares: { primary: 1 } },
    });
    start();
    const waits = [start(), start(), start()];
    await clock.tickAsync(100);
    primary.circuit.hear({
      ...{ paidAtMs: Number.NEGATIVE_INFINITY, hasWitness: true },
      down: { ...UNREACHABLE.cause, evidence: 'not_sent', since: new Date(0) },
    });
    first.resolve(UNREACHABLE);
    await clock.tickAsync(PROBE_INTERVAL_MS / 2);
    expect(waits.map(({ end }) => end)).to.deep.equal(['completed', 'completed', 'completed']);
    expect(sends('primary')).to.equal(1);
  });

  it('takes a payment to the fallback at the age of FALLBACK_AFTER_MS, as without a free connection', async () => {
    const { start, run, clock, sends } = stage({
      ...{ primary: never, fallback: () => PAID, policy: AFTER_5_S, shares: { primary: 1 } },
    });
    start();
    const young = start({ ageMs: 4_000 });
    await clock.tickAsync(900);
    expect(young.end).to.equal(undefined);
    await clock.tickAsync(200);
    expect(young.end).to.equal('completed');
    expect(await run({ ageMs: 5_000 })).to.equal('completed');
    expect(sends('fallback')).to.equal(2);
    expect(sends('primary')).to.equal(1);
  });

  it('waits for either gateway when both have no place', async () => {
    const { primary, first } = firstHeld();
    const { start, clock, sends } = stage({
      primary,
      fallback: never,
      policy: AFTER_5_S,
      shares: { primary: 1, fallback: 1 },
    });
    start();
    start({ ageMs: 5_000 });
    await clock.tickAsync(0);
    const waits = start({ ageMs: 5_000 });
    await clock.tickAsync(10_000);
    expect(waits.end).to.equal(undefined);
    first.resolve(PAID);
    await clock.tickAsync(300);
    expect(waits.end).to.equal('completed');
    expect(sends('fallback')).to.equal(1);
  });
});
