import { hostname } from 'node:os';
import { expect } from 'chai';
import { whoRuns } from '../../../src/commands/who.ts';

describe('whoRuns', () => {
  it('names the user and the host', () => {
    const [user, host, ...more] = whoRuns().split('@');
    expect(user).to.not.be.empty;
    expect(host).to.equal(hostname());
    expect(more).to.deep.equal([]);
  });
});
