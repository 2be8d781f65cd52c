import { expect } from 'chai';
import { AFTER_5_S, EAGER, FREE, ON_NOT_SENT, PAID, POOL_TIMEOUT, REFUSED, UNREACHABLE } from './given.ts';
import {
  anotherPaymentAt,
  expectRequeue,
  open,
  openWithoutProbes,
  PROBE_INTERVAL_MS,
  stage,
  stateOf,
} from './stage.ts';

const TO_FALLBACK = ['look up', 'bind to fallback', 'send to fallback', 'record'];

describe('processPayment, with a free payment while the circuit of the primary is open', () => {
  it('keeps the job and sends nothing before a probe is due', async () => {
    const { start, clock, events, primary } = stage();
    await openWithoutProbes(primary, UNREACHABLE);
    const running = start();
    await clock.tickAsync(600_000);
    expect(events).to.deep.equal(['look up']);
    expect(running.end).to.equal(undefined);
  });

  it('takes none of the places of tied payments', async () => {
    const { start, clock, primary, tiedPlaces } = stage({ places: 0 });
    await openWithoutProbes(primary, REFUSED);
    const running = start();
    await clock.tickAsync(60_000);
    expect(running.end).to.equal(undefined);
    expect(tiedPlaces.taken).to.equal(0);
  });

  it('pays as soon as another payment was paid', async () => {
    const { start, clock, primary } = stage({ primary: [PAID] });
    const end = anotherPaymentAt(primary);
    await openWithoutProbes(primary, REFUSED);
    const running = start();
    await clock.tickAsync(0);
    await end(PAID);
    await clock.tickAsync(0);
    expect(running.end).to.equal('completed');
  });

  it('keeps its job as the probe through an outage and pays on the recovery', async () => {
    const outage = [REFUSED, UNREACHABLE, POOL_TIMEOUT, REFUSED, UNREACHABLE];
    const { start, clock, events, sends, primary, fallback } = stage({ primary: [...outage, PAID] });
    // Otherwise the pool time-out would lead to the fallback.
    await openWithoutProbes(fallback, REFUSED);
    await open(primary, REFUSED);
    const running = start();
    for (let attempt = 1; attempt <= outage.length; attempt += 1) {
      await clock.tickAsync(PROBE_INTERVAL_MS);
      expect(sends('primary')).to.equal(attempt);
      expect(running.end).to.equal(undefined);
    }
    await clock.tickAsync(PROBE_INTERVAL_MS);
    expect(running.end).to.equal('completed');
    expect(events.filter((event) => event === 'look up')).to.have.lengthOf(1);
    expect(stateOf(primary)).to.equal('closed');
  });

  it('is not a probe again during the pause that the primary asked this payment for', async () => {
    const { start, clock, sends, primary } = stage({ primary: [{ ...REFUSED, retryAfterMs: 3_000 }, PAID] });
    await open(primary, REFUSED);
    const running = start();
    await clock.tickAsync(PROBE_INTERVAL_MS + 2_999);
    expect(sends('primary')).to.equal(1);
    await clock.tickAsync(1);
    expect(running.end).to.equal('completed');
  });

  it('goes back with the rest of that pause when another payment was paid meanwhile', async () => {
    const { start, clock, primary } = stage({ primary: [{ ...REFUSED, retryAfterMs: 3_000 }] });
    const end = anotherPaymentAt(primary);
    await open(primary, REFUSED);
    const running = start();
    await clock.tickAsync(PROBE_INTERVAL_MS + 1_000);
    await end(PAID);
    await clock.tickAsync(0);
    expectRequeue(running.end, { end: 'clean', pause: 'backoff', atLeastMs: 2_000 });
  });

  it('goes to the fallback at once under FALLBACK_ON=not_sent when the primary is unreachable', async () => {
    const { run, events, primary } = stage({ fallback: [PAID], policy: ON_NOT_SENT });
    await openWithoutProbes(primary, UNREACHABLE);
    expect(await run()).to.equal('completed');
    expect(events).to.deep.equal(TO_FALLBACK);
  });

  it('waits under FALLBACK_ON=not_sent for a primary that responds with errors', async () => {
    const { start, clock, events, primary } = stage({ policy: ON_NOT_SENT });
    await openWithoutProbes(primary, REFUSED);
    const running = start();
    await clock.tickAsync(600_000);
    expect(events).to.deep.equal(['look up']);
    expect(running.end).to.equal(undefined);
  });

  it('goes to the fallback under FALLBACK_ON=not_sent once another payment finds the primary unreachable', async () => {
    const { start, clock, events, primary } = stage({ fallback: [PAID], policy: ON_NOT_SENT });
    const end = anotherPaymentAt(primary);
    await openWithoutProbes(primary, REFUSED);
    const running = start();
    await clock.tickAsync(PROBE_INTERVAL_MS);
    expect(running.end).to.equal(undefined);
    await end(UNREACHABLE);
    await clock.tickAsync(0);
    expect(running.end).to.equal('completed');
    expect(events).to.deep.equal(TO_FALLBACK);
  });

  it('goes to the fallback at the age of FALLBACK_AFTER_MS, which grows while it waits', async () => {
    const { start, clock, events, primary } = stage({ fallback: [PAID], policy: AFTER_5_S });
    await openWithoutProbes(primary, REFUSED);
    const running = start({ ageMs: 2_000 });
    await clock.tickAsync(2_999);
    expect(events).to.deep.equal(['look up']);
    await clock.tickAsync(1);
    expect(running.end).to.equal('completed');
    expect(events).to.deep.equal(TO_FALLBACK);
  });

  it('goes to the fallback at the age of FALLBACK_AFTER_MS, even as the probe', async () => {
    const { start, clock, events, primary } = stage({ primary: () => REFUSED, fallback: [PAID], policy: AFTER_5_S });
    await open(primary, REFUSED);
    const running = start({ ageMs: 5_000 - 2 * PROBE_INTERVAL_MS });
    await clock.tickAsync(2 * PROBE_INTERVAL_MS);
    expect(running.end).to.equal('completed');
    expect(events.slice(-3)).to.deep.equal(['bind to fallback', 'send to fallback', 'record']);
  });
});

describe('processPayment, with a free payment while both circuits are open', () => {
  it('keeps the job unbound and sends nothing before a probe is due', async () => {
    for (const policy of EAGER) {
      const { start, clock, events, primary, fallback } = stage({ policy });
      await openWithoutProbes(primary, UNREACHABLE);
      await openWithoutProbes(fallback, UNREACHABLE);
      const running = start(FREE);
      await clock.tickAsync(60_000);
      expect(events).to.deep.equal(['look up']);
      expect(running.end).to.equal(undefined);
    }
  });

  it('goes to the fallback within 250 ms of its recovery', async () => {
    for (const policy of EAGER) {
      const { start, clock, primary, fallback, recorded } = stage({ fallback: [PAID], policy });
      const end = anotherPaymentAt(fallback);
      await openWithoutProbes(primary, UNREACHABLE);
      await openWithoutProbes(fallback, UNREACHABLE);
      const running = start();
      await clock.tickAsync(10_000);
      await end(PAID);
      await clock.tickAsync(250);
      expect(running.end).to.equal('completed');
      expect(recorded[0]).to.include({ gateway: 'fallback' });
    }
  });

  it('goes to the primary when the primary recovers first', async () => {
    const { start, clock, primary, fallback, recorded } = stage({ primary: [PAID], policy: ON_NOT_SENT });
    const end = anotherPaymentAt(primary);
    await openWithoutProbes(primary, UNREACHABLE);
    await openWithoutProbes(fallback, UNREACHABLE);
    const running = start();
    await clock.tickAsync(10_000);
    await end(PAID);
    await clock.tickAsync(0);
    expect(running.end).to.equal('completed');
    expect(recorded[0]).to.include({ gateway: 'primary' });
  });

  it('does not re-check the fallback without a pause', async () => {
    const { start, clock, primary, fallback } = stage({ policy: ON_NOT_SENT });
    await openWithoutProbes(primary, UNREACHABLE);
    await openWithoutProbes(fallback, UNREACHABLE);
    let checks = 0;
    const { isAccepting } = fallback.circuit;
    Object.defineProperty(fallback.circuit, 'isAccepting', {
      get() {
        checks += 1;
        return isAccepting;
      },
    });
    start();
    await clock.tickAsync(10_000);
    expect(checks).to.be.within(40, 2 * 41 + 1);
  });
});
