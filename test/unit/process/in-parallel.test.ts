import { expect } from 'chai';
import { inParallel } from '../../../src/process/in-parallel.ts';

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe('inParallel', () => {
  it('does each item once, with no more than so many under way', async () => {
    const begun: number[] = [];
    let underWay = 0;
    let most = 0;
    const items = Array.from({ length: 20 }, (_, n) => n);
    await inParallel(items, 3, async (n) => {
      begun.push(n);
      underWay += 1;
      most = Math.max(most, underWay);
      await turn();
      underWay -= 1;
    });
    expect(begun).to.deep.equal(items);
    expect(most).to.equal(3);
  });

  it('rejects with the first error when the work under way has ended, and begins no further item', async () => {
    const begun: number[] = [];
    const ended: number[] = [];
    const failure = await inParallel([1, 2, 3, 4, 5, 6], 2, async (n) => {
      begun.push(n);
      await turn();
      if (n === 1) throw new Error('the first');
      await turn();
      ended.push(n);
    }).catch((error: Error) => error.message);
    expect(failure).to.equal('the first');
    expect(begun).to.deep.equal([1, 2]);
    expect(ended).to.deep.equal([2]);
  });
});
