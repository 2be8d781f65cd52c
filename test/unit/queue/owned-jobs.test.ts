import type { Job } from 'bullmq';
import { expect } from 'chai';
import sinon from 'sinon';
import { createOwnedJobs } from '../../../src/queue/owned-jobs.ts';

describe('createOwnedJobs', () => {
  let clock: sinon.SinonFakeTimers;
  beforeEach(() => {
    clock = sinon.useFakeTimers({ now: 1_000_000, toFake: ['performance', 'Date'] });
  });
  afterEach(() => clock.restore());

  const fetched = () => ({ id: 'a', processedOn: Date.now() }) as Job;

  it('owns a job for 30 s after its fetch, and after each renewal', () => {
    const owned = createOwnedJobs();
    const job = fetched();
    owned.add(job, 'one');
    clock.tick(30_000);
    expect(owned.isOwned(job, 'one')).to.equal(true);
    owned.renewed(['a', 'b']);
    clock.tick(30_000);
    expect(owned.isOwned(job, 'one')).to.equal(true);
    clock.tick(1);
    expect(owned.isOwned(job, 'one')).to.equal(false);
  });

  it('owns no job whose fetch was answered to a process that was frozen since', () => {
    const owned = createOwnedJobs();
    const job = fetched();
    clock.tick(30_001);
    owned.add(job, 'one');
    expect(owned.isOwned(job, 'one')).to.equal(false);
  });

  it('owns only with the last run a job that it has lost and fetched again', () => {
    const owned = createOwnedJobs();
    owned.add(fetched(), 'one');
    owned.add(fetched(), 'two');
    owned.renewed(['a']);
    expect(owned.isOwned(fetched(), 'one')).to.equal(false);
    owned.remove(fetched(), 'one');
    expect(owned.isOwned(fetched(), 'two')).to.equal(true);
    owned.remove(fetched(), 'two');
    expect(owned.isOwned(fetched(), 'two')).to.equal(false);
  });
});
