import { expect } from 'chai';
import { Histogram, HistogramFamily, OTHER, quantile } from '../../../src/telemetry/histogram.ts';

describe('histogram', () => {
  it('counts each value in the first bucket whose bound is not below it', () => {
    const histogram = new Histogram([1, 5, 10]);
    for (const value of [0, 1, 1.1, 5, 10, 10.5, 1e9]) histogram.observe(value);
    expect([...histogram.counts]).to.deep.equal([2, 2, 1, 2]);
  });

  it('adds up its values', () => {
    const histogram = new Histogram([1]);
    for (const value of [0.5, 2, 4]) histogram.observe(value);
    expect(histogram.sum).to.equal(6.5);
  });
});

describe('family of histograms', () => {
  it('has one histogram for each combination of labels', () => {
    const family = new HistogramFamily([1]);
    family.at('/payments', 'POST', 204).observe(1);
    family.at('/payments', 'POST', 204).observe(1);
    family.at('/payments', 'POST', 503).observe(2);
    expect([...family].map(([route, method, status, { counts }]) => [route, method, status, ...counts])).to.deep.equal([
      ['/payments', 'POST', 204, 2, 0],
      ['/payments', 'POST', 503, 0, 1],
    ]);
  });

  it('is bounded, and loses no value beyond the bound', () => {
    const family = new HistogramFamily([1]);
    for (let status = 0; status < 10_000; status += 1) family.at('primary', '', status).observe(1);
    for (let status = 0; status < 10_000; status += 1) family.at('fallback', '', status).observe(1);
    const series = [...family];
    expect(series.length).to.be.below(210);
    expect(series.reduce((sum, [, , , { counts }]) => sum + counts[0]!, 0)).to.equal(20_000);
    expect(series.filter(([, error]) => error === OTHER).map(([gateway]) => gateway)).to.deep.equal([
      'primary',
      'fallback',
    ]);
  });
});

describe('quantile', () => {
  it('lies on a straight line inside its bucket', () => {
    expect(quantile(0.5, [0, 10, 0, 0], [1, 5, 10])).to.equal(3);
    expect(quantile(0.5, [5, 5, 0, 0], [1, 5, 10])).to.equal(1);
    expect(quantile(0.75, [5, 0, 5, 0], [1, 5, 10])).to.equal(7.5);
  });

  it('is the last bound above all bounds, and undefined without a value', () => {
    expect(quantile(0.99, [1, 0, 0, 9], [1, 5, 10])).to.equal(10);
    expect(quantile(0.5, [0, 0, 0, 0], [1, 5, 10])).to.equal(undefined);
    expect(quantile(0.5, [], [1, 5, 10])).to.equal(undefined);
  });
});
