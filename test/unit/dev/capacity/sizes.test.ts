import { expect } from 'chai';
import { type Assumptions, ratePerCore, sizeFor, type UnitCosts } from '../../../../dev/capacity/sizes.ts';

const COSTS: UnitCosts = {
  cpuMicros: { api: 30, redis: 60, worker: 240, postgres: 24 },
  bytesPerQueued: 400,
  bytesPerRecorded: 175,
};

const ASSUMPTIONS: Assumptions = { usedShare: 0.6, latencyMs: 50, outageMinutes: 10, coreHourUsd: 0.04 };

const sizesFor = (rate: number, changes: Partial<Assumptions> = {}) =>
  sizeFor(rate, COSTS, { ...ASSUMPTIONS, ...changes });

describe('the size of a deployment', () => {
  it('has a core of each part at least', () => {
    expect(sizesFor(1).cores).to.deep.equal({ api: 1, redis: 1, worker: 1, postgres: 1 });
  });

  it('has so many cores that each is used to the given share', () => {
    // 10,000/s of 60 µs keep 0.6 cores busy: exactly one core at 60 %.
    expect(sizesFor(10_000).cores).to.deep.equal({ api: 1, redis: 1, worker: 4, postgres: 1 });
    expect(sizesFor(10_001).cores.redis).to.equal(2);
    expect(sizesFor(100_000).cores).to.deep.equal({ api: 5, redis: 10, worker: 40, postgres: 4 });
  });

  it('needs fewer cores when each is used to the full', () => {
    expect(sizesFor(100_000, { usedShare: 1 }).cores).to.deep.equal({ api: 3, redis: 6, worker: 24, postgres: 3 });
  });

  it('has a core for each part where a whole number is a little more as a float', () => {
    const costs = { ...COSTS, cpuMicros: { api: 7, redis: 7, worker: 7, postgres: 7 } };
    for (let cores = 1; cores <= 50; cores += 1) {
      expect(sizeFor((cores * 0.6 * 1e6) / 7, costs, ASSUMPTIONS).cores.api).to.equal(cores);
    }
  });

  it('costs what all its cores cost', () => {
    const { coresInAll, usdPerHour } = sizesFor(100_000);
    expect(coresInAll).to.equal(5 + 10 + 40 + 4);
    expect(usdPerHour).to.be.closeTo(59 * 0.04, 1e-9);
  });

  it('has as many payments in flight as begin during the latency of a gateway', () => {
    expect(sizesFor(10_000)).to.include({ places: 500, placesPerWorker: 125 });
    expect(sizesFor(10_000, { latencyMs: 1_000 })).to.include({ places: 10_000, placesPerWorker: 2_500 });
  });

  it('has memory for what is accepted in an outage', () => {
    expect(sizesFor(1_000)).to.include({ backlogPayments: 600_000, backlogBytes: 240_000_000 });
    expect(sizesFor(1_000, { outageMinutes: 60 }).backlogBytes).to.equal(1_440_000_000);
  });

  it('has disk for a day of payments', () => {
    expect(sizesFor(1_000).ledgerBytesPerDay).to.equal(1_000 * 86_400 * 175);
  });

  it('names the part whose cores are full first, and the rate', () => {
    // One worker: 1e6 / 240. Its cores are the fewest beside what it costs.
    expect(sizesFor(1_000).bottleneck.part).to.equal('worker');
    expect(sizesFor(1_000).bottleneck.rate).to.be.closeTo(4_166.7, 0.1);
    // Four workers are full at 16,667/s too; one Redis is as well, and a payment meets it first.
    expect(sizesFor(10_000).bottleneck.part).to.equal('redis');
    const dear = { ...COSTS, cpuMicros: { ...COSTS.cpuMicros, postgres: 900 } };
    expect(sizeFor(1_000, dear, ASSUMPTIONS).bottleneck).to.deep.equal({
      part: 'postgres',
      rate: 2 * ratePerCore(dear, 'postgres'),
    });
  });
});
