import { expect } from 'chai';
import sinon from 'sinon';
import { events } from '../../../src/telemetry/events.ts';
import { HOP_BOUNDS_MS } from '../../../src/telemetry/histogram.ts';
import { createTelemetry } from '../../../src/telemetry/telemetry.ts';
import { atTestEnd } from '../../support/cleanup.ts';

function setUp() {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  const telemetry = createTelemetry({ role: 'all', version: '1.2.3' });
  atTestEnd(() => telemetry.close());
  const accept = (count: number, durationMs = 3) => {
    for (let n = 0; n < count; n += 1) {
      events.requestFinished.publish({ route: '/payments', method: 'POST', status: 204, durationMs });
    }
  };
  /** So many seconds pass, with a heartbeat in each. */
  const beat = (seconds: number) => {
    for (let n = 0; n < seconds; n += 1) {
      clock.tick(1_000);
      telemetry.heartbeat();
    }
  };
  return { clock, telemetry, accept, beat };
}

const total = (counts: readonly number[]) => counts.reduce((sum, count) => sum + count, 0);

describe('heartbeat', () => {
  it('tells the rates since the start while the process is younger than ten seconds', () => {
    const { clock, telemetry, accept } = setUp();
    accept(20);
    clock.tick(4_000);
    expect(telemetry.heartbeat().rates).to.deep.equal({
      accepted: 5,
      notAccepted: 0,
      paid: { primary: 0, fallback: 0 },
    });
  });

  it('forgets what is older than ten seconds', () => {
    const { telemetry, accept, beat } = setUp();
    beat(5);
    accept(100);
    beat(9);
    expect(telemetry.heartbeat().rates.accepted).to.equal(10);
    beat(2);
    const { rates, hops } = telemetry.heartbeat();
    expect(rates.accepted).to.equal(0);
    expect(total(hops.accept)).to.equal(0);
  });

  it('has right rates when the process stood still between two heartbeats', () => {
    const { clock, telemetry, accept, beat } = setUp();
    beat(3);
    accept(60);
    clock.tick(30_000);
    expect(telemetry.heartbeat().rates.accepted).to.be.within(1.8, 2);
  });

  it('counts the rates of paid and not accepted payments', () => {
    const { clock, telemetry } = setUp();
    events.paymentPaid.publish({ gateway: 'fallback', amountCents: 1, recordMs: 1 });
    events.requestFinished.publish({
      route: '/payments',
      method: 'POST',
      status: 503,
      code: 'queue_full',
      durationMs: 1,
    });
    events.requestFinished.publish({
      route: '/payments',
      method: 'POST',
      status: 400,
      code: 'invalid_json',
      durationMs: 1,
    });
    clock.tick(1_000);
    expect(telemetry.heartbeat().rates).to.deep.equal({
      accepted: 0,
      notAccepted: 2,
      paid: { primary: 0, fallback: 1 },
    });
  });

  it('has the hops as a histogram with one number more than there are bounds', () => {
    const { clock, telemetry, accept } = setUp();
    accept(3, 4);
    accept(1, 1e9);
    clock.tick(1_000);
    const { accept: counts, wait } = telemetry.heartbeat().hops;
    expect(counts).to.have.length(HOP_BOUNDS_MS.length + 1);
    expect(counts[HOP_BOUNDS_MS.indexOf(5)]).to.equal(3);
    expect(counts.at(-1)).to.equal(1);
    expect(total(wait)).to.equal(0);
  });

  it('can be called twice in a moment', () => {
    const { telemetry, accept } = setUp();
    telemetry.heartbeat();
    accept(1);
    expect(Number.isFinite(telemetry.heartbeat().rates.accepted)).to.equal(true);
  });

  it('has what the parts describe, and JSON keeps it', () => {
    const { telemetry } = setUp();
    telemetry.describe({ problems: () => ({ queue_full: '2025-07-15T12:00:00.000Z' }) });
    const beat = telemetry.heartbeat();
    expect(beat).to.include({ role: 'all', version: '1.2.3', pid: process.pid });
    expect(beat.problems).to.deep.equal({ queue_full: '2025-07-15T12:00:00.000Z' });
    expect(JSON.parse(JSON.stringify(beat))).to.deep.equal(beat);
  });
});
