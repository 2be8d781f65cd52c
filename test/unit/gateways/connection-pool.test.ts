import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'chai';
import sinon from 'sinon';
import { createConnectionPool } from '../../../src/gateways/connection-pool.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const TIMEOUT_MS = 1_000;

/** A pool under a fake clock. `outcomes` lists what the callers got, in order. */
function pool(size: number) {
  // setImmediate stays real: after a time-out the pool lets the event loop read once before it gives up.
  const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  atTestEnd(() => clock.restore());
  const pool = createConnectionPool({ size, timeoutMs: TIMEOUT_MS });
  const { acquire, release } = pool;
  const outcomes: string[] = [];
  return {
    clock,
    pool,
    acquire,
    release,
    outcomes,
    call: (name: string) => {
      void acquire().then((hasPlace) => outcomes.push(`${name} ${hasPlace ? 'in' : 'timed out'}`));
    },
  };
}

describe('connection pool', () => {
  it('gives as many places as it has at once', async () => {
    const { acquire, clock } = pool(2);
    expect(await Promise.all([acquire(), acquire()])).to.deep.equal([true, true]);
    expect(clock.countTimers()).to.equal(0);
  });

  it('makes one more caller wait until a place is given back', async () => {
    const { call, release, outcomes, clock } = pool(1);
    call('a');
    call('b');
    await clock.tickAsync(TIMEOUT_MS - 1);
    expect(outcomes).to.deep.equal(['a in']);
    release();
    await clock.tickAsync(0);
    expect(outcomes).to.deep.equal(['a in', 'b in']);
  });

  it('resolves with false when no place became free in time', async () => {
    const { call, outcomes, clock } = pool(1);
    call('a');
    call('b');
    await clock.tickAsync(TIMEOUT_MS);
    await turn();
    expect(outcomes).to.deep.equal(['a in', 'b timed out']);
  });

  it('gives places in the order of the calls', async () => {
    const { call, release, outcomes, clock } = pool(1);
    for (const name of ['a', 'b', 'c', 'd']) call(name);
    for (let place = 0; place < 3; place += 1) release();
    await clock.tickAsync(0);
    expect(outcomes).to.deep.equal(['a in', 'b in', 'c in', 'd in']);
  });

  it('gives one place for each one given back', async () => {
    const { call, release, outcomes, clock } = pool(1);
    for (const name of ['a', 'b', 'c']) call(name);
    release();
    await clock.tickAsync(0);
    expect(outcomes).to.deep.equal(['a in', 'b in']);
  });

  it('skips callers that have given up', async () => {
    const { call, release, outcomes, clock } = pool(1);
    call('a');
    call('b');
    await clock.tickAsync(TIMEOUT_MS / 2);
    call('c');
    await clock.tickAsync(TIMEOUT_MS / 2);
    await turn();
    release();
    await clock.tickAsync(0);
    expect(outcomes).to.deep.equal(['a in', 'b timed out', 'c in']);
  });

  it('loses no place to a caller that has given up', async () => {
    const { call, release, outcomes, clock } = pool(1);
    call('a');
    call('b');
    await clock.tickAsync(TIMEOUT_MS);
    await turn();
    release();
    call('c');
    call('d');
    await clock.tickAsync(0);
    expect(outcomes).to.deep.equal(['a in', 'b timed out', 'c in']);
  });

  it('leaves no timer behind for a caller that got a place', async () => {
    const { call, release, clock } = pool(1);
    call('a');
    call('b');
    release();
    await clock.tickAsync(0);
    expect(clock.countTimers()).to.equal(0);
  });

  it('does not count a stop of the process as a wait: places given back meanwhile come first', async () => {
    const { acquire, release } = createConnectionPool({ size: 1, timeoutMs: 5 });
    await acquire();
    const second = acquire();
    // Both timers are due when the process goes on: first the end of the wait, then the release.
    setTimeout(release, 6);
    const stop = new Int32Array(new SharedArrayBuffer(4));
    Atomics.wait(stop, 0, 0, 20);
    expect(await second).to.equal(true);
  });

  describe('wouldWaitInVain', () => {
    /** A pool that was full for its time-out, in which `handedOn` waiting callers got a place. */
    async function fullPool(handedOn: number) {
      const full = pool(1);
      full.call('holder');
      for (let n = 0; n < handedOn; n += 1) full.call(`early ${n}`);
      for (let n = 0; n < handedOn; n += 1) full.release();
      await full.clock.tickAsync(TIMEOUT_MS);
      return full;
    }

    it('is true once as many wait as got a place within the time-out', async () => {
      const { call, pool } = await fullPool(2);
      call('a');
      expect(pool.wouldWaitInVain).to.equal(false);
      call('b');
      expect(pool.wouldWaitInVain).to.equal(true);
    });

    it('is false while no caller waits, so that the next one tries', async () => {
      const { call, pool } = await fullPool(0);
      expect(pool.wouldWaitInVain).to.equal(false);
      call('a');
      expect(pool.wouldWaitInVain).to.equal(true);
    });

    it('is false until the pool has been full for its time-out', async () => {
      const { call, clock, pool: full } = pool(1);
      call('holder');
      call('a');
      await clock.tickAsync(TIMEOUT_MS - 1);
      expect(full.wouldWaitInVain).to.equal(false);
    });

    it('is false again after a place was free', async () => {
      const { call, release, pool } = await fullPool(0);
      call('a');
      release();
      release();
      expect(pool.wouldWaitInVain).to.equal(false);
      call('b');
      call('c');
      expect(pool.wouldWaitInVain).to.equal(false);
    });
  });
});
