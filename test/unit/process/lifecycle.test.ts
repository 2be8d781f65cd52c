import { EventEmitter } from 'node:events';
import { expect } from 'chai';
import sinon from 'sinon';
import { type LifecycleOptions, runUntilSignal, type Service } from '../../../src/process/lifecycle.ts';
import { watchSignals } from '../../../src/process/signals.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { recordingLogger } from '../../support/logger.ts';

const SHUTDOWN_TIMEOUT_MS = 10_000;

/** A stand-in for the process: it receives signals and records exit codes. */
class FakeProcess extends EventEmitter {
  readonly stdout = new EventEmitter();
  readonly stderr = new EventEmitter();
  readonly exits: number[] = [];
  exit(code: number): void {
    this.exits.push(code);
  }
}

/** A service that closes when the test calls `closed` or `failed`. */
function slowService() {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const close = sinon.spy((_deadline: number) => promise);
  return { close, closed: resolve, failed: reject };
}

const quickService = (): Service => ({ close: () => Promise.resolve() });

async function run(services: readonly Service[]) {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  const fake = new FakeProcess();
  const processLike = fake as unknown as NonNullable<LifecycleOptions['processLike']>;
  const { logger, entries } = recordingLogger();
  const signals = watchSignals(processLike);
  const lifecycle = runUntilSignal({ signals, logger, shutdownTimeoutMs: SHUTDOWN_TIMEOUT_MS, processLike });
  for (const service of services) await lifecycle.start(() => service);
  return { clock, processLike: fake, entries, lifecycle, signal: (name = 'SIGTERM') => fake.emit(name, name) };
}

describe('runUntilSignal', () => {
  it('does nothing before a signal', async () => {
    const service = slowService();
    const { clock, processLike } = await run([service]);
    await clock.tickAsync(10 * SHUTDOWN_TIMEOUT_MS);
    expect(service.close.called).to.equal(false);
    expect(processLike.exits).to.deep.equal([]);
  });

  async function endsOn(name: string): Promise<void> {
    const service = slowService();
    const { clock, processLike, signal } = await run([service]);
    signal(name);
    await clock.tickAsync(100);
    expect(service.close.callCount).to.equal(1);
    expect(processLike.exits).to.deep.equal([]);
    service.closed();
    await clock.tickAsync(0);
    expect(processLike.exits).to.deep.equal([0]);
  }
  it('closes the services and exits with 0 on SIGINT', () => endsOn('SIGINT'));
  it('closes the services and exits with 0 on SIGTERM', () => endsOn('SIGTERM'));

  it('closes in reverse order of the start, one after the other', async () => {
    const [first, second] = [slowService(), slowService()];
    const { clock, signal } = await run([first, second]);
    signal();
    await clock.tickAsync(0);
    expect([first.close.called, second.close.called]).to.deep.equal([false, true]);
    second.closed();
    await clock.tickAsync(0);
    expect(first.close.called).to.equal(true);
  });

  it('passes the deadline to the services', async () => {
    const service = slowService();
    const { clock, signal } = await run([service]);
    await clock.tickAsync(500);
    signal();
    expect(service.close.firstCall.args).to.deep.equal([500 + SHUTDOWN_TIMEOUT_MS]);
  });

  it('exits with 1 when the deadline passes, and not before', async () => {
    const { clock, processLike, entries, signal } = await run([slowService()]);
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

  it('does not exit a second time at the deadline', async () => {
    const { clock, processLike, signal } = await run([quickService()]);
    signal();
    await clock.tickAsync(2 * SHUTDOWN_TIMEOUT_MS);
    expect(processLike.exits).to.deep.equal([0]);
  });

  it('exits with 1 at once on a second signal', async () => {
    const service = slowService();
    const { clock, processLike, signal } = await run([service]);
    signal('SIGTERM');
    await clock.tickAsync(1_000);
    signal('SIGINT');
    await clock.tickAsync(0);
    expect(processLike.exits).to.deep.equal([1]);
    expect(service.close.callCount).to.equal(1);
  });

  it('takes repeats within a second for the same signal', async () => {
    const service = slowService();
    const { clock, processLike, signal } = await run([service]);
    signal('SIGINT');
    await clock.tickAsync(1);
    signal('SIGTERM');
    await clock.tickAsync(998);
    signal('SIGINT');
    await clock.tickAsync(10);
    expect(processLike.exits).to.deep.equal([]);
    service.closed();
    await clock.tickAsync(0);
    expect(processLike.exits).to.deep.equal([0]);
  });

  it('starts nothing after a signal', async () => {
    const running = slowService();
    const { lifecycle, signal } = await run([running]);
    signal();
    const start = sinon.spy(quickService);
    await lifecycle.start(start);
    expect(start.called).to.equal(false);
  });

  it('rejects with the error of a service that cannot start, and does not close that service', async () => {
    const { clock, processLike, lifecycle, signal } = await run([quickService()]);
    const failure = new Error('no');
    expect(await lifecycle.start(() => Promise.reject(failure)).catch((error: unknown) => error)).to.equal(failure);
    signal();
    await clock.tickAsync(0);
    expect(processLike.exits).to.deep.equal([0]);
  });

  it('goes on when nobody reads the log', async () => {
    const service = slowService();
    const { clock, processLike } = await run([service]);
    for (const stream of [processLike.stdout, processLike.stderr]) stream.emit('error', new Error('write EPIPE'));
    await clock.tickAsync(10 * SHUTDOWN_TIMEOUT_MS);
    expect(service.close.called).to.equal(false);
    expect(processLike.exits).to.deep.equal([]);
  });

  async function failsOn(event: string, reason: string): Promise<void> {
    const service = slowService();
    const { clock, processLike, entries } = await run([service]);
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
  }
  it('closes the services and exits with 1 on an uncaught exception', () =>
    failsOn('uncaughtException', 'uncaught exception'));
  it('closes the services and exits with 1 on an unhandled rejection', () =>
    failsOn('unhandledRejection', 'unhandled rejection'));

  it('exits with 1 at once on an uncaught exception while it closes, and logs it', async () => {
    const { clock, processLike, entries, signal } = await run([slowService()]);
    signal();
    processLike.emit('uncaughtException', new Error('while closing'));
    await clock.tickAsync(0);
    expect(processLike.exits).to.deep.equal([1]);
    expect(entries.at(-1)).to.include({ message: 'exiting at once', cause: 'Error: while closing' });
  });

  async function closesTheOthers(failing: Service): Promise<void> {
    const other = slowService();
    const { clock, processLike, entries, signal } = await run([other, failing]);
    signal();
    await clock.tickAsync(0);
    expect(other.close.callCount).to.equal(1);
    other.closed();
    await clock.tickAsync(0);
    expect(processLike.exits).to.deep.equal([1]);
    expect(entries).to.deep.include({ level: 'error', message: 'could not close cleanly', cause: 'Error: stuck' });
  }
  it('closes the others and exits with 1 when a close rejects', () =>
    closesTheOthers({ close: () => Promise.reject(new Error('stuck')) }));
  it('closes the others and exits with 1 when a close throws', () =>
    closesTheOthers({
      close() {
        throw new Error('stuck');
      },
    }));

  it('exits with the code that a part of the process asks for', async () => {
    for (const [exitCode, level] of [
      [0, 'info'],
      [1, 'error'],
    ] as const) {
      const service = slowService();
      const { clock, processLike, entries, lifecycle } = await run([service]);
      lifecycle.shutdown('stuck', exitCode);
      service.closed();
      await clock.tickAsync(0);
      expect(processLike.exits).to.deep.equal([exitCode]);
      expect(entries[0]).to.include({ level, reason: 'stuck' });
      clock.restore();
    }
  });

  it('logs no error when nothing fails', async () => {
    const { clock, entries, signal } = await run([quickService()]);
    signal();
    await clock.tickAsync(0);
    expect(entries.map(({ level, message }) => `${level} ${message}`)).to.deep.equal([
      'info shutting down',
      'info stopped',
    ]);
  });
});
