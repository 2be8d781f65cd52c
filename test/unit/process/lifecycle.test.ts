import { EventEmitter } from 'node:events';
import { expect } from 'chai';
import sinon from 'sinon';
import { type LifecycleOptions, runUntilSignal, type Service } from '../../../src/process/lifecycle.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { recordingLogger } from '../../support/logger.ts';

const SHUTDOWN_TIMEOUT_MS = 10_000;

/** A stand-in for the process: it can be signalled, and keeps the codes it was asked to exit with. */
class FakeProcess extends EventEmitter {
  readonly exits: number[] = [];
  exit(code: number): void {
    this.exits.push(code);
  }
}

/** A service whose closing ends only when the test says so. */
function slowService() {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const close = sinon.spy((_deadline: number) => promise);
  return { close, closed: resolve, failed: reject };
}

const quickService = (): Service => ({ close: () => Promise.resolve() });

function run(services: readonly Service[]) {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  const processLike = new FakeProcess();
  const { logger, entries } = recordingLogger();
  const lifecycle = runUntilSignal(services, {
    logger,
    shutdownTimeoutMs: SHUTDOWN_TIMEOUT_MS,
    processLike: processLike as unknown as NonNullable<LifecycleOptions['processLike']>,
  });
  return { clock, processLike, entries, lifecycle, signal: (name = 'SIGTERM') => processLike.emit(name, name) };
}

describe('runUntilSignal', () => {
  it('does nothing until a signal comes', async () => {
    const service = slowService();
    const { clock, processLike } = run([service]);
    await clock.tickAsync(10 * SHUTDOWN_TIMEOUT_MS);
    expect(service.close.called).to.equal(false);
    expect(processLike.exits).to.deep.equal([]);
  });

  for (const name of ['SIGINT', 'SIGTERM']) {
    it(`closes the services and exits with 0 on ${name}`, async () => {
      const service = slowService();
      const { clock, processLike, signal } = run([service]);
      signal(name);
      await clock.tickAsync(100);
      expect(service.close.callCount).to.equal(1);
      expect(processLike.exits).to.deep.equal([]);
      service.closed();
      await clock.tickAsync(0);
      expect(processLike.exits).to.deep.equal([0]);
    });
  }

  it('closes in reverse order of the start, one after the other', async () => {
    const [first, second] = [slowService(), slowService()];
    const { clock, signal } = run([first, second]);
    signal();
    await clock.tickAsync(0);
    expect([first.close.called, second.close.called]).to.deep.equal([false, true]);
    second.closed();
    await clock.tickAsync(0);
    expect(first.close.called).to.equal(true);
  });

  it('tells the services when the process will be gone', async () => {
    const service = slowService();
    const { clock, signal } = run([service]);
    await clock.tickAsync(500);
    signal();
    expect(service.close.firstCall.args).to.deep.equal([500 + SHUTDOWN_TIMEOUT_MS]);
  });

  it('exits with 1 when the deadline passes, and not before', async () => {
    const { clock, processLike, entries, signal } = run([slowService()]);
    signal();
    await clock.tickAsync(SHUTDOWN_TIMEOUT_MS - 1);
    expect(processLike.exits).to.deep.equal([]);
    await clock.tickAsync(2);
    expect(processLike.exits).to.deep.equal([1]);
    expect(entries).to.deep.include({
      level: 'error',
      message: 'shutdown deadline passed',
      shutdownTimeoutMs: SHUTDOWN_TIMEOUT_MS,
    });
  });

  it('exits at the deadline no more once everything is closed', async () => {
    const { clock, processLike, signal } = run([quickService()]);
    signal();
    await clock.tickAsync(2 * SHUTDOWN_TIMEOUT_MS);
    expect(processLike.exits).to.deep.equal([0]);
  });

  it('exits with 1 at once on a second signal', async () => {
    const service = slowService();
    const { clock, processLike, signal } = run([service]);
    signal('SIGTERM');
    await clock.tickAsync(100);
    signal('SIGINT');
    await clock.tickAsync(0);
    expect(processLike.exits).to.deep.equal([1]);
    expect(service.close.callCount).to.equal(1);
  });

  const uncaught: [event: string, reason: string][] = [
    ['uncaughtException', 'uncaught exception'],
    ['unhandledRejection', 'unhandled rejection'],
  ];
  for (const [event, reason] of uncaught) {
    it(`closes the services and exits with 1 on an ${reason}`, async () => {
      const service = slowService();
      const { clock, processLike, entries } = run([service]);
      processLike.emit(event, new TypeError('no such thing'));
      await clock.tickAsync(0);
      expect(service.close.callCount).to.equal(1);
      expect(processLike.exits).to.deep.equal([]);
      service.closed();
      await clock.tickAsync(0);
      expect(processLike.exits).to.deep.equal([1]);
      expect(entries[0]).to.deep.equal({
        level: 'error',
        message: 'shutting down',
        reason,
        cause: 'TypeError: no such thing',
      });
    });
  }

  it('exits with 1 at once on an uncaught exception while it closes, and says which', async () => {
    const { clock, processLike, entries, signal } = run([slowService()]);
    signal();
    processLike.emit('uncaughtException', new Error('while closing'));
    await clock.tickAsync(0);
    expect(processLike.exits).to.deep.equal([1]);
    expect(entries.at(-1)).to.include({ message: 'exiting at once', cause: 'Error: while closing' });
  });

  const failing: [title: string, service: Service][] = [
    ['rejects', { close: () => Promise.reject(new Error('stuck')) }],
    [
      'throws',
      {
        close() {
          throw new Error('stuck');
        },
      },
    ],
  ];
  for (const [title, service] of failing) {
    it(`closes the others and exits with 1 when a close ${title}`, async () => {
      const other = slowService();
      const { clock, processLike, entries, signal } = run([other, service]);
      signal();
      await clock.tickAsync(0);
      expect(other.close.callCount).to.equal(1);
      other.closed();
      await clock.tickAsync(0);
      expect(processLike.exits).to.deep.equal([1]);
      expect(entries).to.deep.include({ level: 'error', message: 'could not close cleanly', cause: 'Error: stuck' });
    });
  }

  for (const exitCode of [0, 1]) {
    it(`exits with ${exitCode} when a part of the process asks for it`, async () => {
      const service = slowService();
      const { clock, processLike, entries, lifecycle } = run([service]);
      lifecycle.shutdown('stuck', exitCode);
      service.closed();
      await clock.tickAsync(0);
      expect(processLike.exits).to.deep.equal([exitCode]);
      expect(entries[0]).to.include({ level: exitCode === 0 ? 'info' : 'error', reason: 'stuck' });
    });
  }

  it('logs no error on a day without one', async () => {
    const { clock, entries, signal } = run([quickService()]);
    signal();
    await clock.tickAsync(0);
    expect(entries.map(({ level, message }) => `${level} ${message}`)).to.deep.equal([
      'info shutting down',
      'info stopped',
    ]);
  });
});
