import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'chai';
import sinon from 'sinon';
import { createConnectionPool } from '../../../src/gateways/connection-pool.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const TIMEOUT_MS = 1_000;

/** A pool under a clock of the test's own, and a way to see who has got a place. */
function pool(size: number) {
  // The pool looks once more before it gives up, after what this turn of the event loop has read.
  const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  atTestEnd(() => clock.restore());
  const pool = createConnectionPool({ size, timeoutMs: TIMEOUT_MS });
  const { acquire, release } = pool;
  const answers: string[] = [];
  return {
    clock,
    pool,
    acquire,
    release,
    answers,
    ask: (who: string) => {
      acquire().then((got) => answers.push(`${who} ${got ? 'in' : 'gone'}`));
    },
  };
}

describe('connection pool', () => {
  it('gives as many places as it has at once', async () => {
    const { acquire, clock } = pool(2);
    expect(await Promise.all([acquire(), acquire()])).to.deep.equal([true, true]);
    expect(clock.countTimers()).to.equal(0);
  });

  it('keeps one more waiting until a place is given back', async () => {
    const { ask, release, answers, clock } = pool(1);
    ask('a');
    ask('b');
    await clock.tickAsync(TIMEOUT_MS - 1);
    expect(answers).to.deep.equal(['a in']);
    release();
    await clock.tickAsync(0);
    expect(answers).to.deep.equal(['a in', 'b in']);
  });

  it('answers false when no place became free in time', async () => {
    const { ask, answers, clock } = pool(1);
    ask('a');
    ask('b');
    await clock.tickAsync(TIMEOUT_MS);
    await turn();
    expect(answers).to.deep.equal(['a in', 'b gone']);
  });

  it('gives places in the order of asking', async () => {
    const { ask, release, answers, clock } = pool(1);
    for (const who of ['a', 'b', 'c', 'd']) ask(who);
    for (let place = 0; place < 3; place += 1) release();
    await clock.tickAsync(0);
    expect(answers).to.deep.equal(['a in', 'b in', 'c in', 'd in']);
  });

  it('gives one place for one given back', async () => {
    const { ask, release, answers, clock } = pool(1);
    for (const who of ['a', 'b', 'c']) ask(who);
    release();
    await clock.tickAsync(0);
    expect(answers).to.deep.equal(['a in', 'b in']);
  });

  it('passes over those who have given up', async () => {
    const { ask, release, answers, clock } = pool(1);
    ask('a');
    ask('b');
    await clock.tickAsync(TIMEOUT_MS / 2);
    ask('c');
    await clock.tickAsync(TIMEOUT_MS / 2);
    await turn();
    release();
    await clock.tickAsync(0);
    expect(answers).to.deep.equal(['a in', 'b gone', 'c in']);
  });

  it('loses no place to one who has given up', async () => {
    const { ask, release, answers, clock } = pool(1);
    ask('a');
    ask('b');
    await clock.tickAsync(TIMEOUT_MS);
    await turn();
    release();
    ask('c');
    ask('d');
    await clock.tickAsync(0);
    expect(answers).to.deep.equal(['a in', 'b gone', 'c in']);
  });

  it('leaves no timer behind for one who got in', async () => {
    const { ask, release, clock } = pool(1);
    ask('a');
    ask('b');
    release();
    await clock.tickAsync(0);
    expect(clock.countTimers()).to.equal(0);
  });

  it('does not count a stop of this process as a wait: what came back meanwhile is given first', async () => {
    const { acquire, release } = createConnectionPool({ size: 1, timeoutMs: 5 });
    await acquire();
    const second = acquire();
    // Both are due when the process goes on, the end of the wait before the place that came back.
    setTimeout(release, 6);
    const stop = new Int32Array(new SharedArrayBuffer(4));
    Atomics.wait(stop, 0, 0, 20);
    expect(await second).to.equal(true);
  });

  describe('wouldWaitInVain', () => {
    /** Full for its time-out, within which `handedOn` places were handed on to those who waited. */
    async function fullPool(handedOn: number) {
      const full = pool(1);
      full.ask('holder');
      for (let n = 0; n < handedOn; n += 1) full.ask(`early ${n}`);
      for (let n = 0; n < handedOn; n += 1) full.release();
      await full.clock.tickAsync(TIMEOUT_MS);
      return full;
    }

    it('is true once as many wait as got a place within the time-out', async () => {
      const { ask, pool } = await fullPool(2);
      ask('a');
      expect(pool.wouldWaitInVain).to.equal(false);
      ask('b');
      expect(pool.wouldWaitInVain).to.equal(true);
    });

    it('is false while nobody waits, so that one sees whether places become free', async () => {
      const { ask, pool } = await fullPool(0);
      expect(pool.wouldWaitInVain).to.equal(false);
      ask('a');
      expect(pool.wouldWaitInVain).to.equal(true);
    });

    it('is false until the pool has been full for its time-out', async () => {
      const { ask, clock, pool: full } = pool(1);
      ask('holder');
      ask('a');
      await clock.tickAsync(TIMEOUT_MS - 1);
      expect(full.wouldWaitInVain).to.equal(false);
    });

    it('is false again after a place was free', async () => {
      const { ask, release, pool } = await fullPool(0);
      ask('a');
      release();
      release();
      expect(pool.wouldWaitInVain).to.equal(false);
      ask('b');
      ask('c');
      expect(pool.wouldWaitInVain).to.equal(false);
    });
  });
});
