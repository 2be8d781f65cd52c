import { expect } from 'chai';
import type { FallbackConfig } from '../../../src/config.ts';
import type { AttemptOutcome } from '../../../src/gateways/gateway.ts';
import {
  AFTER_5_S,
  BOUND,
  DOUBTED,
  DOUBTFUL,
  EAGER,
  FREE,
  ON_NEVER,
  ON_NOT_SENT,
  ON_POOL_TIMEOUT,
  PAID,
  REFUSED,
  UNKNOWN,
  UNREACHABLE,
  UNRESOLVED,
} from './given.ts';
import { expectRequeue, open, openWithoutProbes, PROBE_INTERVAL_MS, stage } from './stage.ts';

const BY = { who: 'ada', reason: 'maintenance', at: '2026-01-02T03:04:05.000Z' };
const HOUR_MS = 3_600_000;
const TO_FALLBACK = ['look up', 'bind to fallback', 'send to fallback', 'record'];

describe('processPayment, while an operator has stopped the primary', () => {
  it('sends nothing there, and keeps a free payment in the worker', async () => {
    for (const policy of [ON_POOL_TIMEOUT, ON_NOT_SENT]) {
      const { start, clock, events, primary } = stage({ policy });
      primary.circuit.steer('stopped', BY);
      const running = start();
      await clock.tickAsync(HOUR_MS);
      expect(events).to.deep.equal(['look up']);
      expect(running.end).to.equal(undefined);
    }
  });

  it('pays a free payment at the fallback when it is as old as FALLBACK_AFTER_MS, and not before', async () => {
    const { start, clock, events, primary } = stage({ fallback: [PAID], policy: AFTER_5_S });
    primary.circuit.steer('stopped', BY);
    const running = start();
    await clock.tickAsync(4_999);
    expect(events).to.deep.equal(['look up']);
    await clock.tickAsync(1);
    expect(running.end).to.equal('completed');
    expect(events).to.deep.equal(TO_FALLBACK);
  });

  it('is no not_sent, also when its circuit was open for one: under FALLBACK_ON=not_sent its age alone decides', async () => {
    const afterMinute: FallbackConfig = { on: 'not_sent', afterMs: 60_000 };
    for (const policy of [ON_NOT_SENT, afterMinute]) {
      const { start, clock, events, primary } = stage({ policy });
      await openWithoutProbes(primary, UNREACHABLE);
      primary.circuit.steer('stopped', BY);
      const running = start();
      await clock.tickAsync(59_999);
      expect(events).to.deep.equal(['look up']);
      expect(running.end).to.equal(undefined);
    }
  });

  it('sends a tied payment back to the queue with that reason, its own pause, and without an attempt', async () => {
    const states = [
      [UNRESOLVED, 'tied'],
      [DOUBTED, 'doubted'],
    ] as const;
    for (const [state, pause] of states) {
      const { run, events, primary } = stage();
      primary.circuit.steer('stopped', BY);
      const end = await run(state);
      expectRequeue(end, { end: 'clean', pause, code: 'stopped' });
      expect((end as Error).message).to.equal('primary gateway: not accepting, stopped by ada: maintenance');
      expect(events).to.deep.equal(['look up']);
    }
  });

  it('records an attempt that was under way and paid', async () => {
    const late = Promise.withResolvers<AttemptOutcome>();
    const { start, clock, primary, recorded } = stage({ primary: () => late.promise });
    const running = start();
    await clock.tickAsync(0);
    primary.circuit.steer('stopped', BY);
    await clock.tickAsync(1_000);
    late.resolve(PAID);
    await clock.tickAsync(0);
    expect(running.end).to.equal('completed');
    expect(recorded).to.have.lengthOf(1);
  });

  it('sends an attempt that was under way and may be paid back to the queue as unresolved, and to nobody else', async () => {
    const late = Promise.withResolvers<AttemptOutcome>();
    const { start, clock, primary, events } = stage({ primary: () => late.promise, policy: EAGER[2]! });
    const running = start();
    await clock.tickAsync(0);
    primary.circuit.steer('stopped', BY);
    late.resolve(UNKNOWN);
    await clock.tickAsync(HOUR_MS);
    expectRequeue(running.end, { end: 'unresolved', pause: 'tied', code: 'stopped' });
    expect(events).to.deep.equal(['look up', 'send to primary']);
  });

  it('does not ask it for a payment whose attempt ended doubtful meanwhile', async () => {
    const late = Promise.withResolvers<AttemptOutcome>();
    const { start, clock, primary, events } = stage({ primary: () => late.promise });
    const running = start(UNRESOLVED);
    await clock.tickAsync(0);
    primary.circuit.steer('stopped', BY);
    late.resolve(DOUBTFUL);
    await clock.tickAsync(0);
    expectRequeue(running.end, { end: 'doubtful', pause: 'tied' });
    expect(events).to.deep.equal(['look up', 'send to primary']);
  });

  it('pays the payments that wait as soon as it is resumed', async () => {
    const { start, clock, primary } = stage({ primary: [PAID] });
    primary.circuit.steer('stopped', BY);
    const running = start();
    await clock.tickAsync(HOUR_MS);
    primary.circuit.steer('open');
    await clock.tickAsync(0);
    expect(running.end).to.equal('completed');
  });

  it('probes with them once it is resumed and its circuit is open', async () => {
    const { start, clock, primary, sends } = stage({ primary: [REFUSED, PAID] });
    await open(primary, REFUSED);
    primary.circuit.steer('stopped', BY);
    const running = start();
    await clock.tickAsync(HOUR_MS);
    primary.circuit.steer('open');
    await clock.tickAsync(0);
    expect(sends('primary')).to.equal(1);
    expect(running.end).to.equal(undefined);
    await clock.tickAsync(PROBE_INTERVAL_MS);
    expect(running.end).to.equal('completed');
  });
});

describe('processPayment, while an operator has stopped the fallback', () => {
  it('keeps an old payment at a primary that is down, until the fallback is resumed', async () => {
    const { start, clock, events, primary, fallback } = stage({ fallback: [PAID], policy: AFTER_5_S });
    await openWithoutProbes(primary, REFUSED);
    fallback.circuit.steer('stopped', BY);
    const running = start();
    await clock.tickAsync(HOUR_MS);
    expect(events).to.deep.equal(['look up']);
    fallback.circuit.steer('open');
    await clock.tickAsync(1_000);
    expect(running.end).to.equal('completed');
    expect(events).to.deep.equal(TO_FALLBACK);
  });

  it('sends a payment that is bound to it back to the queue', async () => {
    const { run, events, fallback } = stage();
    fallback.circuit.steer('stopped', BY);
    expectRequeue(await run(BOUND), { end: 'clean', pause: 'tied', code: 'stopped' });
    expect(events).to.deep.equal(['look up']);
  });

  it('asks it for nothing under FALLBACK_ON=never: the payment waits with that reason', async () => {
    for (const state of ['stopped', 'draining'] as const) {
      const { run, events, fallback } = stage({ policy: ON_NEVER });
      fallback.circuit.steer(state, BY);
      const end = await run(FREE);
      expectRequeue(end, { end: 'clean', pause: 'tied', code: state });
      expect((end as Error).message).to.include('by ada: maintenance');
      expect(events).to.deep.equal(['look up']);
    }
  });
});

describe('processPayment, while an operator has stopped both gateways', () => {
  it('keeps a free payment in the worker, whatever the policy is', async () => {
    for (const policy of EAGER) {
      const { start, clock, events, primary, fallback } = stage({ policy });
      for (const { circuit } of [primary, fallback]) circuit.steer('stopped', BY);
      const running = start({ ageMs: HOUR_MS });
      await clock.tickAsync(60_000);
      expect(events).to.deep.equal(['look up']);
      expect(running.end).to.equal(undefined);
    }
  });
});

describe('processPayment, while an operator drains the primary', () => {
  it('pays a tied payment, and no free one', async () => {
    const { start, run, clock, primary, sends } = stage({ primary: [PAID] });
    primary.circuit.steer('draining', BY);
    const running = start();
    await clock.tickAsync(100);
    expect(await run(UNRESOLVED)).to.equal('completed');
    expect(sends('primary')).to.equal(1);
    expect(running.end).to.equal(undefined);
  });

  it('sends a tied payment once in a run when its circuit is closed and the attempt fails', async () => {
    const { run, primary, sends } = stage({ primary: [UNKNOWN] });
    primary.circuit.steer('draining', BY);
    expectRequeue(await run(UNRESOLVED), { end: 'unresolved', pause: 'tied', code: 'http_502' });
    expect(sends('primary')).to.equal(1);
  });

  it('takes a free payment to the fallback by its age', async () => {
    const { start, clock, events, primary } = stage({ fallback: [PAID], policy: AFTER_5_S });
    primary.circuit.steer('draining', BY);
    const running = start();
    await clock.tickAsync(5_000);
    expect(running.end).to.equal('completed');
    expect(events).to.deep.equal(TO_FALLBACK);
  });

  it('hands a free payment back with a short pause when it stands in the way of tied ones', async () => {
    const { start, clock, primary } = stage({ places: 0 });
    primary.circuit.steer('draining', BY);
    const running = start();
    await clock.tickAsync(999);
    expect(running.end).to.equal(undefined);
    await clock.tickAsync(1);
    expectRequeue(running.end, { end: 'clean', pause: 'backoff', code: 'draining' });
  });
});
