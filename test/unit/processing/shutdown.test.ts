import { expect } from 'chai';
import { BOUND, PAID, POOL_TIMEOUT, REFUSED, UNKNOWN, UNREACHABLE, UNRESOLVED } from './given.ts';
import { expectRequeue, open, openWithoutProbes, PROBE_INTERVAL_MS, stage } from './stage.ts';

const AT_ONCE = { pause: 'none', code: 'shutting_down' } as const;

describe('processPayment, when the worker shuts down', () => {
  it('requeues a free payment that waits for the primary at once, as clean', async () => {
    const { start, clock, primary } = stage();
    await openWithoutProbes(primary, REFUSED);
    const running = start();
    await clock.tickAsync(0);
    expect(running.end).to.equal(undefined);
    primary.circuit.close();
    await clock.tickAsync(0);
    expectRequeue(running.end, { end: 'clean', ...AT_ONCE });
  });

  it('requeues a tied payment that waits for its gateway at once', async () => {
    const unresolved = stage();
    await openWithoutProbes(unresolved.primary, REFUSED);
    const atPrimary = unresolved.start(UNRESOLVED);
    await unresolved.clock.tickAsync(0);
    unresolved.primary.circuit.close();
    await unresolved.clock.tickAsync(0);
    expectRequeue(atPrimary.end, { end: 'clean', ...AT_ONCE });

    const bound = stage();
    await openWithoutProbes(bound.fallback, REFUSED);
    const atFallback = bound.start(BOUND);
    await bound.clock.tickAsync(0);
    bound.fallback.circuit.close();
    await bound.clock.tickAsync(0);
    expectRequeue(atFallback.end, { end: 'clean', ...AT_ONCE });
  });

  it('requeues a probe without a response as unresolved', async () => {
    const { start, clock, primary } = stage({ primary: [UNKNOWN] });
    await open(primary, REFUSED);
    const running = start();
    await clock.tickAsync(PROBE_INTERVAL_MS);
    primary.circuit.close();
    await clock.tickAsync(0);
    expectRequeue(running.end, { end: 'unresolved', ...AT_ONCE });
  });

  it('requeues a probe whose attempts were all refused as clean', async () => {
    const { start, clock, sends, primary } = stage({ primary: [REFUSED, UNREACHABLE] });
    await open(primary, REFUSED);
    const running = start();
    await clock.tickAsync(2 * PROBE_INTERVAL_MS);
    expect(sends('primary')).to.equal(2);
    primary.circuit.close();
    await clock.tickAsync(0);
    expectRequeue(running.end, { end: 'clean', ...AT_ONCE });
  });

  it('requeues a payment that comes afterwards without a send', async () => {
    const { run, events, primary } = stage();
    primary.circuit.close();
    expectRequeue(await run(), { end: 'clean', ...AT_ONCE });
    expect(events).to.deep.equal(['look up']);
  });

  it('requeues a payment that would change to the fallback without a binding', async () => {
    const { run, events, fallback } = stage({ primary: [POOL_TIMEOUT] });
    fallback.circuit.close();
    expectRequeue(await run(), { end: 'clean', ...AT_ONCE });
    expect(events).to.deep.equal(['look up', 'send to primary']);
  });

  it('still records a payment that was paid', async () => {
    const committed = Promise.withResolvers<void>();
    const { start, clock, primary, recorded } = stage({ primary: [PAID], record: () => committed.promise });
    const running = start();
    await clock.tickAsync(0);
    primary.circuit.close();
    committed.resolve();
    await clock.tickAsync(0);
    expect(running.end).to.equal('completed');
    expect(recorded).to.have.lengthOf(1);
  });

  it('lets an attempt end, and requeues the payment without another one', async () => {
    const attempt = Promise.withResolvers<typeof REFUSED>();
    const { start, clock, sends, primary } = stage({ primary: () => attempt.promise });
    const running = start();
    await clock.tickAsync(0);
    primary.circuit.close();
    attempt.resolve(REFUSED);
    await clock.tickAsync(60_000);
    expectRequeue(running.end, { end: 'clean', pause: 'backoff', code: 'http_429' });
    expect(sends('primary')).to.equal(1);
  });
});
