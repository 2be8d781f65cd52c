import { expect } from 'chai';
import { createInFlightLimit, createInFlightLimits, shareOf } from '../../../src/gateways/in-flight-limit.ts';

describe('in-flight-limit', () => {
  it('are without a limit by default', () => {
    const places = createInFlightLimit();
    for (let n = 0; n < 1_000; n += 1) expect(places.take(0)).to.equal(true);
    expect(places).to.include({ taken: 1_000, hasFree: true });
  });

  it('are given in the order of the calls', async () => {
    const places = createInFlightLimit(1);
    void places.take(0);
    const order: string[] = [];
    const waits = ['a', 'b'].map(async (id) => {
      expect(await places.take(Number.POSITIVE_INFINITY)).to.equal(true);
      order.push(id);
      places.release();
    });
    places.release();
    await Promise.all(waits);
    expect(order).to.deep.equal(['a', 'b']);
    expect(places.taken).to.equal(0);
  });

  it('give none to a caller that does not wait, or whose wait is over', async () => {
    const places = createInFlightLimit(1);
    void places.take(0);
    expect(places.take(0)).to.equal(false);
    expect(await places.take(5)).to.equal(false);
    places.release();
    expect(places.taken).to.equal(0);
  });

  it('break off nothing when the limit is lowered, and hand on what becomes free when it is raised', async () => {
    const places = createInFlightLimit(2);
    void places.take(0);
    void places.take(0);
    places.resize(1);
    expect(places).to.include({ taken: 2, hasFree: false });
    places.release();
    expect(places.hasFree).to.equal(false);
    const waiting = places.take(Number.POSITIVE_INFINITY);
    places.resize(2);
    expect(await waiting).to.equal(true);
  });

  it('end every wait when they are closed', async () => {
    const places = createInFlightLimit(1);
    void places.take(0);
    const waiting = places.take(Number.POSITIVE_INFINITY);
    places.close();
    expect(await waiting).to.equal(false);
  });

  it('are one until the worker knows how many workers there are', () => {
    const { primary, fallback, divide } = createInFlightLimits(10);
    const freeOf = (places: typeof primary) => {
      let free = 0;
      while (places.take(0) === true) free += 1;
      return free;
    };
    expect(freeOf(primary)).to.equal(1);
    divide({ rank: 0, workers: 3 });
    expect(freeOf(primary)).to.equal(3);
    expect(freeOf(fallback)).to.equal(4);
  });
});

describe('the share of a bound', () => {
  const sharesOf = (bound: number, workers: number) =>
    Array.from({ length: workers }, (_, rank) => shareOf(bound, { rank, workers }));

  it('adds up to the bound', () => {
    expect(sharesOf(10, 4)).to.deep.equal([3, 3, 2, 2]);
    expect(sharesOf(100, 1)).to.deep.equal([100]);
  });

  it('is never below one', () => {
    expect(sharesOf(2, 4)).to.deep.equal([1, 1, 1, 1]);
  });

  it('has no limit without a bound', () => {
    expect(sharesOf(Number.POSITIVE_INFINITY, 2)).to.deep.equal([Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY]);
  });
});
