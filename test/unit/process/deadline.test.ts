import { expect } from 'chai';
import sinon from 'sinon';
import { within } from '../../../src/process/deadline.ts';
import { atTestEnd } from '../../support/cleanup.ts';

describe('within a deadline', () => {
  const clocked = () => {
    const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    atTestEnd(() => clock.restore());
    return clock;
  };
  const deadlineIn = (ms: number) => performance.now() + ms;

  it('resolves with the promise and leaves no timer', async () => {
    const clock = clocked();
    await within(deadlineIn(100), Promise.resolve());
    expect(clock.countTimers()).to.equal(0);
  });

  it('rejects with the promise and leaves no timer', async () => {
    const clock = clocked();
    const fault = new Error('broken');
    expect(await within(deadlineIn(100), Promise.reject(fault)).catch((error: unknown) => error)).to.equal(fault);
    expect(clock.countTimers()).to.equal(0);
  });

  async function resolvesInTime(ms: number): Promise<void> {
    const clock = clocked();
    const late = Promise.withResolvers<void>();
    let isOver = false;
    const waiting = within(deadlineIn(ms), late.promise).then(() => {
      isOver = true;
    });
    await clock.tickAsync(Math.max(0, ms - 1));
    expect(isOver).to.equal(ms < 0);
    await clock.tickAsync(1);
    expect(isOver).to.equal(true);
    late.reject(new Error('too late'));
    await waiting;
  }
  it('resolves at the deadline and ignores a later rejection', () => resolvesInTime(100));
  it('resolves at once when the deadline has passed, and ignores a later rejection', () => resolvesInTime(-100));
});
