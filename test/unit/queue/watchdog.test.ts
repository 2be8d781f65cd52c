import { expect } from 'chai';
import sinon from 'sinon';
import { startWatchdog } from '../../../src/queue/watchdog.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const INTERVAL_MS = 1_000;

/** A watchdog over a worker that is stuck, until the test changes something. */
function watch(options: { intervalMs?: number } = { intervalMs: INTERVAL_MS }) {
  const clock = sinon.useFakeTimers();
  const worker = { inFlight: 0, finished: 7, fetches: 0, isWaitingForPlace: false };
  const state = { waiting: 1, isTaking: true, isConnected: true };
  const onStuck = sinon.spy((_reason: string) => undefined);
  const countWaiting = sinon.stub<[], Promise<number>>().callsFake(async () => state.waiting);
  const watchdog = startWatchdog({
    worker,
    countWaiting,
    isTaking: () => state.isTaking,
    isConnected: () => state.isConnected,
    onStuck,
    ...options,
  });
  atTestEnd(() => {
    watchdog.close();
    clock.restore();
  });
  return {
    clock,
    worker,
    state,
    onStuck,
    countWaiting,
    watchdog,
    /** At each look, the worker has asked for a payment since the last one. */
    async look(times = 1): Promise<void> {
      for (let i = 0; i < times; i += 1) {
        worker.fetches += 1;
        await clock.tickAsync(INTERVAL_MS);
      }
    },
    /** It has not. */
    lookAtSilence: (times: number) => clock.tickAsync(times * INTERVAL_MS),
  };
}

type Watch = ReturnType<typeof watch>;

describe('watchdog', () => {
  it('reports a worker that takes nothing for three looks while payments wait', async () => {
    const { onStuck, look } = watch();
    await look(2);
    expect(onStuck.called).to.equal(false);
    await look();
    expect(onStuck.args).to.deep.equal([['payments are waiting and none was taken for 3 s']]);
  });

  it('reports a worker that asks for no payment for three looks, also when none waits', async () => {
    const { onStuck, state, lookAtSilence } = watch();
    state.waiting = 0;
    await lookAtSilence(2);
    expect(onStuck.called).to.equal(false);
    await lookAtSilence(4);
    expect(onStuck.args).to.deep.equal([['the worker has not asked for a payment for 3 s']]);
  });

  it('does not report one that was not started', async () => {
    const { onStuck, state, lookAtSilence } = watch();
    state.isTaking = false;
    await lookAtSilence(4);
    expect(onStuck.called).to.equal(false);
  });

  it('reports once', async () => {
    const { onStuck, look } = watch();
    await look(10);
    expect(onStuck.callCount).to.equal(1);
  });

  /** Interrupts two looks without a sign of life by one look with it, and expects the count to start again. */
  async function expectNewCount(show: (watched: Watch) => void, hide: (watched: Watch) => void): Promise<void> {
    const watched = watch();
    await watched.look(2);
    show(watched);
    await watched.look();
    hide(watched);
    await watched.look(2);
    expect(watched.onStuck.called).to.equal(false);
    await watched.look();
    expect(watched.onStuck.callCount).to.equal(1);
  }

  it('counts anew after a look at which a payment is in flight', () =>
    expectNewCount(
      ({ worker }) => {
        worker.inFlight = 1;
      },
      ({ worker }) => {
        worker.inFlight = 0;
      },
    ));

  it('counts anew after a look at which the worker has finished a job since the last one', () =>
    expectNewCount(
      ({ worker }) => {
        worker.finished += 1;
      },
      () => {},
    ));

  it('counts anew after a look at which nothing is waiting', () =>
    expectNewCount(
      ({ state }) => {
        state.waiting = 0;
      },
      ({ state }) => {
        state.waiting = 1;
      },
    ));

  it('counts anew after a look at which Redis is down', () =>
    expectNewCount(
      ({ state }) => {
        state.isConnected = false;
      },
      ({ state }) => {
        state.isConnected = true;
      },
    ));

  it('counts anew after a look at which the worker waits for a place that other shards have', () =>
    expectNewCount(
      ({ worker }) => {
        worker.isWaitingForPlace = true;
      },
      ({ worker }) => {
        worker.isWaitingForPlace = false;
      },
    ));

  it('does not report a worker while its server does not reply, nor when the reply comes late', async () => {
    const { countWaiting, onStuck, lookAtSilence } = watch();
    const reply = Promise.withResolvers<number>();
    countWaiting.onThirdCall().returns(reply.promise);
    await lookAtSilence(10);
    expect(onStuck.called).to.equal(false);
    reply.resolve(1);
    await lookAtSilence(2);
    expect(onStuck.called).to.equal(false);
    await lookAtSilence(1);
    expect(onStuck.callCount).to.equal(1);
  });

  it('does not ask Redis while it is down', async () => {
    const { state, countWaiting, look } = watch();
    state.isConnected = false;
    await look(5);
    expect(countWaiting.called).to.equal(false);
  });

  it('does not ask Redis while the worker works', async () => {
    const { worker, countWaiting, look } = watch();
    worker.inFlight = 3;
    await look(5);
    expect(countWaiting.called).to.equal(false);
  });

  it('counts anew after a look that failed', async () => {
    const { countWaiting, onStuck, look } = watch();
    countWaiting.onThirdCall().rejects(new Error('Connection is closed.'));
    await look(5);
    expect(onStuck.called).to.equal(false);
    await look();
    expect(onStuck.callCount).to.equal(1);
  });

  it('does not look after it was closed', async () => {
    const { countWaiting, watchdog, look } = watch();
    watchdog.close();
    await look(5);
    expect(countWaiting.called).to.equal(false);
  });

  it('looks every ten seconds by default', async () => {
    const { clock, worker, countWaiting } = watch({});
    worker.inFlight = 1;
    await clock.tickAsync(9_999);
    worker.inFlight = 0;
    await clock.tickAsync(1);
    expect(countWaiting.callCount).to.equal(1);
    await clock.tickAsync(10_000);
    expect(countWaiting.callCount).to.equal(2);
  });
});
