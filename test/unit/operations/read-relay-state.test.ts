import { expect } from 'chai';
import sinon from 'sinon';
import { LedgerUnavailableError, QueueUnavailableError } from '../../../src/errors.ts';
import { createRelayState } from '../../../src/operations/read-relay-state.ts';
import type { RelayHealth } from '../../../src/operations/relay-health.ts';
import { MINUTES } from '../../../src/operations/relay-state.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { EMPTY_QUEUE } from '../../support/empty-queue.ts';

const HEALTH: RelayHealth = {
  queue: {
    ...EMPTY_QUEUE,
    size: 1,
    waiting: 1,
  },
  workers: 0,
  problems: [{ code: 'no_worker', since: '2026-01-01T12:00:00.000Z', cause: 'none' }],
};

const never = () => new Promise<never>(() => {});
const noRedis = () => Promise.reject(new QueueUnavailableError('Redis is down'));
const noLedger = () => Promise.reject(new LedgerUnavailableError('PostgreSQL is down'));

const WELL = {
  check: async () => HEALTH,
  accepted: async () => ({ fromMs: 0, accepted: Array<number>(MINUTES).fill(2) }),
  since: async () => [],
  countOpen: async () => ({ invalid_payment: 3, rejected: 0, payload_missing: 0 }),
  last: async () => undefined,
  actions: async () => [],
};

function stage(change: Partial<{ [part in keyof typeof WELL]: () => Promise<never> }> = {}) {
  const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  atTestEnd(() => clock.restore());
  const parts = { ...WELL, ...change };
  const calls = {
    check: sinon.spy(parts.check),
    accepted: sinon.spy(parts.accepted),
    since: sinon.spy(parts.since),
    countOpen: sinon.spy(parts.countOpen),
    last: sinon.spy(parts.last),
    actions: sinon.spy(parts.actions),
  };
  const read = createRelayState({
    healthCheck: { check: calls.check },
    acceptedMinutes: { read: calls.accepted },
    paidMinutes: { since: calls.since },
    deadLetters: { countOpen: calls.countOpen },
    reconciliations: { last: calls.last },
    actions: { running: async () => [], list: calls.actions },
    maxSize: 10,
  });
  const counts = () => Object.fromEntries(Object.entries(calls).map(([name, { callCount }]) => [name, callCount]));
  return { clock, read, counts };
}

const ONCE = { check: 1, accepted: 1, since: 1, countOpen: 1, last: 1, actions: 1 };

describe('the state of the relay', () => {
  it('is not read until a page asks, and once a second for all pages together', async () => {
    const { clock, read, counts } = stage();
    expect(Object.values(counts())).to.deep.equal([0, 0, 0, 0, 0, 0]);
    await Promise.all(Array.from({ length: 50 }, read));
    expect(counts()).to.deep.equal(ONCE);
    clock.tick(999);
    await read();
    expect(counts()).to.deep.equal(ONCE);
    clock.tick(1);
    await read();
    expect(counts()).to.deep.equal({ ...ONCE, check: 2, accepted: 2, since: 2, actions: 2 });
    clock.tick(10_000);
    await read();
    expect(counts()).to.include({ check: 3, countOpen: 2, last: 2 });
  });

  it('names the outage of Redis with the time when it was first seen, and has what PostgreSQL knows', async () => {
    const { clock, read } = stage({ check: noRedis, accepted: noRedis });
    const first = await read();
    expect(first.problems.map(({ code, cause }) => [code, cause])).to.deep.equal([
      ['queue_unavailable', 'Redis is down'],
    ]);
    expect(first.queue).to.equal(undefined);
    expect(first.deadLetters).to.include({ invalid_payment: 3 });
    clock.tick(5_000);
    expect((await read()).problems).to.deep.equal(first.problems);
  });

  it('has what Redis knows while PostgreSQL is down, and neither counts nor actions from before', async () => {
    const { clock, read } = stage({ since: noLedger });
    for (let n = 0; n < 2; n += 1) {
      const { problems, queue, lastHour, deadLetters, actions } = await read();
      expect(problems).to.deep.equal(HEALTH.problems);
      expect(queue).to.include({ size: 1, capacity: 10 });
      expect(lastHour!.accepted).to.have.length(MINUTES);
      expect([lastHour!.paid, deadLetters, actions]).to.deep.equal([undefined, undefined, undefined]);
      clock.tick(1_000);
    }
  });

  it('is there within a second whatever hangs, and nothing that hangs is asked again', async () => {
    const { clock, read, counts } = stage({ check: never, accepted: never, since: never });
    for (let n = 0; n < 3; n += 1) {
      const reading = read();
      await clock.tickAsync(1_000);
      expect((await reading).problems.map(({ code }) => code)).to.deep.equal(['queue_unavailable']);
    }
    expect(counts()).to.include({ check: 1, accepted: 1, since: 1 });
  });
});
