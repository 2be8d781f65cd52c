import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'chai';
import sinon from 'sinon';
import { createConnectionPool } from '../../../src/gateways/connection-pool.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const TIMEOUT_MS = 1_000;

/** A pool under a clock of the test's own, and a way to see who has got a place. */
function pool(size: number) {
  // The pool looks once more before it gives up, after what this turn of the event loop has read.
  const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  atTestEnd(() => clock.restore());
  const { acquire, release } = createConnectionPool({ size, timeoutMs: TIMEOUT_MS });
  const answers: string[] = [];
  return {
    clock,
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
});
