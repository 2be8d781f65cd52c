import { expect } from 'chai';
import { limitOf } from '../../../../dev/capacity/usage.ts';

describe('the limit of a measurement', () => {
  it('is the cores of the machine when they are busy, whatever one process uses', () => {
    expect(limitOf({ cores: 2, busyCores: 1.9, busiest: { redis: 0.95 } })).to.equal('cores');
  });

  it('is the part with a process that fills a core while other cores are idle', () => {
    expect(limitOf({ cores: 16, busyCores: 6, busiest: { api: 0.4, redis: 0.97, load: 0.92 } })).to.equal('redis');
  });

  it('is waiting when neither the machine nor a process is full', () => {
    expect(limitOf({ cores: 16, busyCores: 6, busiest: { worker: 0.8, redis: 0.5 } })).to.equal('waiting');
  });
});
