import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { expect } from 'chai';
import sinon from 'sinon';
import { createPacer } from '../../../src/queue/pacer.ts';
import { atTestEnd } from '../../support/cleanup.ts';

/** A pacer in a loop with turns of 1 ms, whose sleeps take no time. */
function startPacer(turnMs: () => number) {
  const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  atTestEnd(() => clock.restore());
  const sleeps: number[] = [];
  const pacer = createPacer({ turnMs, sleep: (ms) => sleeps.push(ms) });
  atTestEnd(() => pacer.close());
  return { pacer, sleeps, clock };
}

describe('the pacer of an event loop', () => {
  it('sleeps through the rest of every short turn', () => {
    const { pacer, sleeps, clock } = startPacer(() => 5);
    pacer.work();
    clock.tick(3);
    expect(sleeps).to.deep.equal([4, 4, 4]);
  });

  it('does not sleep after a turn that is long enough, and reads the least length for each turn', () => {
    let turnMs = 1;
    const { pacer, sleeps, clock } = startPacer(() => turnMs);
    pacer.work();
    clock.tick(3);
    expect(sleeps).to.deep.equal([]);
    turnMs = 3;
    clock.tick(1);
    expect(sleeps).to.deep.equal([2]);
  });

  it('stops when there was no work for 100 ms, until there is some', () => {
    const { pacer, sleeps, clock } = startPacer(() => 5);
    pacer.work();
    clock.tick(60);
    pacer.work();
    clock.tick(100);
    expect(clock.countTimers()).to.equal(1);
    expect(sleeps).to.have.length(160);
    clock.tick(1);
    expect(clock.countTimers()).to.equal(0);
    pacer.work();
    clock.tick(1);
    expect(sleeps).to.have.length(161);
  });

  it('never sleeps longer than one turn, even when the clock has stepped back', () => {
    const { pacer, sleeps, clock } = startPacer(() => 5);
    pacer.work();
    // Seen: a test replaced `performance` while the pacer of another test was running, and it slept for the difference.
    const now = performance.now;
    performance.now = () => -190_000;
    atTestEnd(() => {
      performance.now = now;
    });
    clock.tick(1);
    expect(sleeps).to.deep.equal([5]);
  });

  it('leaves nothing running once it is closed', () => {
    const { pacer, clock } = startPacer(() => 5);
    pacer.work();
    pacer.close();
    pacer.work();
    expect(clock.countTimers()).to.equal(0);
  });

  it('lets a turn send before it sleeps', async () => {
    const events: string[] = [];
    const pacer = createPacer({
      turnMs: () => 5,
      sleep(ms) {
        events.push('sleep');
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
      },
    });
    atTestEnd(() => pacer.close());
    for (let turn = 0; turn < 10; turn += 1) {
      pacer.work();
      const file = createReadStream(import.meta.filename);
      await once(file, 'readable');
      events.push('read');
      // As the batchers do.
      setImmediate(() => events.push('sent'));
      await once(file.resume(), 'close');
    }
    const reads = events.flatMap((event, index) => (event === 'read' ? [events[index + 1]] : []));
    expect(reads).to.deep.equal(Array.from({ length: 10 }, () => 'sent'));
    expect(events).to.include('sleep');
  });
});
