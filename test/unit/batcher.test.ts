import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'chai';
import sinon from 'sinon';
import { BatcherClosedError, type BatcherOptions, BatcherOverflowError, createBatcher } from '../../src/batcher.ts';
import { atTestEnd } from '../support/cleanup.ts';

/** A batcher whose flushes are recorded and end only when the test says so. */
function controlled(options: Partial<BatcherOptions<string, string>> = {}) {
  const flushes: { items: readonly string[]; end: PromiseWithResolvers<readonly (string | Error)[]> }[] = [];
  const scheduled: (() => void)[] = [];
  const batcher = createBatcher<string, string>({
    maxItems: 10,
    maxPending: 100,
    schedule: (run) => scheduled.push(run),
    flush(items) {
      const end = Promise.withResolvers<readonly (string | Error)[]>();
      flushes.push({ items, end });
      return end.promise;
    },
    ...options,
  });
  return {
    batcher,
    flushes,
    scheduled,
    /** Starts the flush that an idle batcher has scheduled. */
    start: () => scheduled.shift()!(),
    async succeed() {
      const { items, end } = flushes.at(-1)!;
      end.resolve(items.map((item) => `${item} done`));
      await turn();
    },
    async fail(error: Error) {
      flushes.at(-1)!.end.reject(error);
      await turn();
    },
  };
}

/** The state of each promise after a turn of the event loop. */
async function states(promises: readonly Promise<unknown>[]): Promise<unknown[]> {
  const states: unknown[] = promises.map(() => 'pending');
  promises.forEach((promise, index) => {
    promise.then(
      (value) => {
        states[index] = value;
      },
      (error: Error) => {
        states[index] = error.message;
      },
    );
  });
  await turn();
  return states;
}

describe('batcher', () => {
  it('flushes together what was added before the flush began', async () => {
    const { batcher, flushes, scheduled, start } = controlled();
    for (const item of ['a', 'b', 'c']) void batcher.add(item);
    expect(flushes).to.have.lengthOf(0);
    expect(scheduled).to.have.lengthOf(1);
    start();
    expect(flushes.map(({ items }) => items)).to.deep.equal([['a', 'b', 'c']]);
  });

  it('resolves every caller with the result of its own item', async () => {
    const { batcher, start, succeed } = controlled();
    const added = ['a', 'b'].map((item) => batcher.add(item));
    start();
    await succeed();
    expect(await Promise.all(added)).to.deep.equal(['a done', 'b done']);
  });

  it('keeps a caller waiting while its flush is under way', async () => {
    const { batcher, start } = controlled();
    const added = batcher.add('a');
    start();
    expect(await states([added])).to.deep.equal(['pending']);
  });

  it('runs one flush at a time and puts items that arrive meanwhile into the next', async () => {
    const { batcher, flushes, scheduled, start, succeed } = controlled();
    void batcher.add('a');
    start();
    void batcher.add('b');
    void batcher.add('c');
    await turn();
    expect(flushes).to.have.lengthOf(1);
    await succeed();
    expect(flushes.map(({ items }) => items)).to.deep.equal([['a'], ['b', 'c']]);
    expect(scheduled).to.have.lengthOf(0);
  });

  it('flushes at most maxItems at once, in the order of arrival', async () => {
    const { batcher, flushes, start, succeed } = controlled({ maxItems: 2 });
    const added = ['a', 'b', 'c', 'd', 'e'].map((item) => batcher.add(item));
    start();
    for (let flush = 0; flush < 3; flush += 1) await succeed();
    expect(flushes.map(({ items }) => items)).to.deep.equal([['a', 'b'], ['c', 'd'], ['e']]);
    expect(await Promise.all(added)).to.deep.equal(['a done', 'b done', 'c done', 'd done', 'e done']);
  });

  it('schedules anew after it was idle', async () => {
    const { batcher, scheduled, start, succeed } = controlled();
    void batcher.add('a');
    start();
    await succeed();
    const added = batcher.add('b');
    expect(scheduled).to.have.lengthOf(1);
    start();
    await succeed();
    expect(await added).to.equal('b done');
  });

  it('flushes in the next turn of the event loop by default', async () => {
    const sizes: number[] = [];
    const batcher = createBatcher<number, number>({
      maxItems: 10,
      maxPending: 10,
      async flush(items) {
        sizes.push(items.length);
        return items;
      },
    });
    expect(await Promise.all([batcher.add(1), batcher.add(2)])).to.deep.equal([1, 2]);
    expect(sizes).to.deep.equal([2]);
  });

  it('rejects only the callers whose flush failed', async () => {
    const { batcher, start, fail, succeed } = controlled({ maxItems: 2 });
    const added = ['a', 'b', 'c'].map((item) => batcher.add(item));
    const outcome = states(added.slice(0, 2));
    start();
    await fail(new Error('flush failed'));
    expect(await outcome).to.deep.equal(['flush failed', 'flush failed']);
    expect(await states(added.slice(2))).to.deep.equal(['pending']);
    await succeed();
    expect(await added[2]).to.equal('c done');
  });

  it('rejects a caller with the error of its own item', async () => {
    const { batcher, flushes, start } = controlled();
    const added = ['a', 'b', 'c'].map((item) => batcher.add(item));
    start();
    flushes[0]!.end.resolve(['a done', new Error('b failed'), 'c done']);
    expect(await states(added)).to.deep.equal(['a done', 'b failed', 'c done']);
  });

  it('rejects all callers of a flush that throws', async () => {
    const { batcher, start } = controlled({
      flush() {
        throw new Error('thrown');
      },
    });
    const added = ['a', 'b'].map((item) => batcher.add(item));
    start();
    expect(await states(added)).to.deep.equal(['thrown', 'thrown']);
  });

  it('rejects all callers when a flush returns fewer or more results than items', async () => {
    for (const results of [[], ['x'], ['x', 'y', 'z']]) {
      const { batcher, flushes, start } = controlled();
      const added = ['a', 'b'].map((item) => batcher.add(item));
      start();
      flushes[0]!.end.resolve(results);
      const message = `flush returned ${results.length} results for 2 items`;
      expect(await states(added)).to.deep.equal([message, message]);
    }
  });

  it('goes on after a failed flush', async () => {
    const { batcher, start, fail, succeed } = controlled();
    const first = states([batcher.add('a')]);
    start();
    await fail(new Error('flush failed'));
    await first;
    const second = batcher.add('b');
    start();
    await succeed();
    expect(await second).to.equal('b done');
  });

  it('counts the items that wait or are in a flush', async () => {
    const { batcher, start, succeed } = controlled({ maxItems: 2 });
    expect(batcher.size).to.equal(0);
    for (const item of ['a', 'b', 'c']) void batcher.add(item);
    expect(batcher.size).to.equal(3);
    start();
    expect(batcher.size).to.equal(3);
    await succeed();
    expect(batcher.size).to.equal(1);
    await succeed();
    expect(batcher.size).to.equal(0);
  });

  it('rejects an item beyond maxPending, and accepts one again when an item has left the flush', async () => {
    const { batcher, start, succeed } = controlled({ maxPending: 2, maxItems: 1 });
    void batcher.add('a');
    start();
    void batcher.add('b');
    const rejected = batcher.add('c');
    expect(await rejected.catch((error: unknown) => error)).to.be.instanceOf(BatcherOverflowError);
    await succeed();
    const accepted = batcher.add('d');
    await succeed();
    await succeed();
    expect(await accepted).to.equal('d done');
  });

  describe('close', () => {
    it('rejects new items', async () => {
      const { batcher } = controlled();
      await batcher.close();
      expect(await batcher.add('a').catch((error: unknown) => error)).to.be.instanceOf(BatcherClosedError);
    });

    it('resolves at once when nothing is pending', async () => {
      const { batcher } = controlled();
      expect(await states([batcher.close()])).to.deep.equal([undefined]);
    });

    it('waits until all accepted items are flushed and settled', async () => {
      const { batcher, flushes, start, succeed } = controlled({ maxItems: 1 });
      const order: string[] = [];
      const added = ['a', 'b'].map((item) => batcher.add(item).then(() => order.push(item)));
      const closed = batcher.close().then(() => order.push('closed'));
      start();
      await succeed();
      expect(order).to.deep.equal(['a']);
      await succeed();
      await Promise.all([...added, closed]);
      expect(order).to.deep.equal(['a', 'b', 'closed']);
      expect(flushes).to.have.lengthOf(2);
    });

    it('resolves although the last flush fails', async () => {
      const { batcher, start, fail } = controlled();
      const added = states([batcher.add('a')]);
      const closed = batcher.close();
      start();
      await fail(new Error('flush failed'));
      await closed;
      expect(await added).to.deep.equal(['flush failed']);
    });

    it('returns the same promise again, during the flush and afterwards', async () => {
      const { batcher, start, succeed } = controlled();
      void batcher.add('a');
      const closed = batcher.close();
      expect(batcher.close()).to.equal(closed);
      start();
      await succeed();
      await closed;
      expect(batcher.close()).to.equal(closed);
    });
  });

  it('rejects the waiting items with the error of the whole flush under failsWaitingToo', async () => {
    const { batcher, flushes, start, fail } = controlled({ maxItems: 1, failsWaitingToo: true });
    const added = [batcher.add('a'), batcher.add('b'), batcher.add('c')];
    const outcome = states(added);
    start();
    await fail(new Error('it hangs'));
    await outcome;
    expect(await states(added)).to.deep.equal(['it hangs', 'it hangs', 'it hangs']);
    expect(flushes).to.have.length(1);
    expect(batcher.size).to.equal(0);
    const next = batcher.add('d');
    start();
    flushes.at(-1)!.end.resolve(['d done']);
    expect(await next).to.equal('d done');
  });

  it('frees the place of an item before its caller goes on', async () => {
    const { batcher, start, succeed } = controlled({ maxItems: 1, maxPending: 1 });
    const first = batcher.add('a');
    start();
    await succeed();
    await first;
    expect(batcher.size).to.equal(0);
    expect(await states([batcher.add('b')])).to.deep.equal(['pending']);
  });

  it('waits for further items no longer than maxWaitMs when it was idle', async () => {
    const clock = sinon.useFakeTimers({ toFake: ['setTimeout'] });
    atTestEnd(() => clock.restore());
    const flushes: (readonly string[])[] = [];
    const batcher = createBatcher<string, string>({
      maxItems: 10,
      maxPending: 10,
      maxWaitMs: 5,
      async flush(items) {
        flushes.push(items);
        return items;
      },
    });
    const added = [batcher.add('a')];
    await clock.tickAsync(4);
    added.push(batcher.add('b'));
    expect(flushes).to.deep.equal([]);
    await clock.tickAsync(1);
    expect(flushes).to.deep.equal([['a', 'b']]);
    expect(await Promise.all(added)).to.deep.equal(['a', 'b']);
  });

  it('ends that wait when it is hurried', async () => {
    const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    atTestEnd(() => clock.restore());
    const { batcher, flushes, succeed } = controlled({ maxWaitMs: 5 });
    const added = [batcher.add('a'), batcher.add('b')];
    expect(flushes).to.have.lengthOf(0);
    batcher.hurry();
    expect(flushes.map(({ items }) => items)).to.deep.equal([['a', 'b']]);
    batcher.hurry();
    await clock.tickAsync(5);
    await succeed();
    expect(flushes).to.have.lengthOf(1);
    expect(await Promise.all(added)).to.deep.equal(['a done', 'b done']);
  });

  it('ends that wait when it is closed', async () => {
    const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    atTestEnd(() => clock.restore());
    const { batcher, flushes, succeed } = controlled({ maxWaitMs: 5 });
    const added = batcher.add('a');
    const closed = batcher.close();
    expect(flushes).to.have.lengthOf(1);
    await succeed();
    await closed;
    expect(await added).to.equal('a done');
  });
});
