import { expect } from 'chai';
import sinon from 'sinon';
import { LedgerUnavailableError, QueueUnavailableError } from '../../../src/errors.ts';
import type { DeadLetters } from '../../../src/ledger/dead-letters.ts';
import type { Reconciliations } from '../../../src/ledger/reconciliations.ts';
import { createRelayGauges } from '../../../src/operations/relay-gauges.ts';
import type { Problem, RelayHealth } from '../../../src/operations/relay-health.ts';
import type { Heartbeat, Since } from '../../../src/telemetry/heartbeat.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { EMPTY_QUEUE } from '../../support/empty-queue.ts';

const COUNTS = { invalid_payment: 3, rejected: 1, payload_missing: 0 };
const DOWN: Since = { code: 'http_502', detail: 'HTTP 502', since: '2026-11-26T12:00:00.000Z' };

function heartbeatOf(role: Heartbeat['role'], down: { primary?: Since; fallback?: Since } = {}): Heartbeat {
  const worker = {
    workerId: 'w',
    concurrency: 4,
    inFlight: 0,
    gateways: {
      primary: { waiting: 0, ...(down.primary && { down: down.primary }) },
      fallback: { waiting: 0, ...(down.fallback && { down: down.fallback }) },
    },
  };
  return { role, ...(role !== 'api' && { worker }) } as Heartbeat;
}

function healthOf(problems: readonly Problem['code'][] = [], heartbeats: readonly Heartbeat[] = []): RelayHealth {
  return {
    queue: {
      ...EMPTY_QUEUE,
      size: 12,
      waiting: 7,
      delayed: 5,
      inFlight: 2,
      oldestMs: 61_500,
      unresolved: { primary: { count: 2, oldestMs: 90_000 }, fallback: { count: 0, oldestMs: 0 } },
      heartbeats,
    },
    workers: heartbeats.filter(({ worker }) => worker !== undefined).length,
    problems: problems.map((code) => ({ code, since: '', cause: '' })),
  };
}

const never = () => new Promise<never>(() => {});

function stage({
  check = async () => healthOf(),
  countOpen = async () => COUNTS,
  last = async () => undefined,
}: {
  check?: () => Promise<RelayHealth>;
  countOpen?: DeadLetters['countOpen'];
  last?: Reconciliations['last'];
} = {}) {
  const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  atTestEnd(() => clock.restore());
  const calls = { check: sinon.spy(check), countOpen: sinon.spy(countOpen), last: sinon.spy(last) };
  const gauges = createRelayGauges({
    healthCheck: { check: calls.check },
    deadLetters: { countOpen: calls.countOpen },
    reconciliations: { last: calls.last },
    maxSize: 50_000,
  });
  return { clock, calls, gauges };
}

describe('the gauges of the relay', () => {
  it('come from the queue, the heartbeats and the ledger', async () => {
    const heartbeats = [heartbeatOf('api'), heartbeatOf('worker', { primary: DOWN }), heartbeatOf('all')];
    const { gauges } = stage({ check: async () => healthOf(['queue_paused', 'primary_down'], heartbeats) });
    expect(await gauges()).to.deep.equal({
      queue: { waiting: 7, delayed: 5, in_flight: 2 },
      capacity: 50_000,
      oldestWaitingSeconds: 61.5,
      unresolved: { primary: { count: 2, oldestSeconds: 90 }, fallback: { count: 0, oldestSeconds: 0 } },
      circuitsOpen: { primary: 1, fallback: 0 },
      workers: 2,
      deadLetters: COUNTS,
      reconciliation: undefined,
      problems: ['queue_paused', 'primary_down'],
    });
  });

  it('show the last reconciliation, and a difference of the amount alone as one payment', async () => {
    const endedAt = new Date('2026-11-26T03:00:00.000Z');
    const at = (payments: number, amountCents: number) => ({ payments, amountCents });
    for (const [primary, fallback, expected] of [
      [at(0, 0), at(0, 0), { primary: 0, fallback: 0 }],
      [at(3, 5970), at(-2, -3980), { primary: 3, fallback: -2 }],
      [at(0, -1), at(0, 500), { primary: -1, fallback: 1 }],
    ] as const) {
      const last = async () => ({ endedAt, range: {}, differences: { primary, fallback } });
      const { gauges, clock } = stage({ last });
      expect((await gauges()).reconciliation).to.deep.equal({ at: endedAt, differences: expected });
      clock.restore();
    }
  });

  it('have no queue, and the counts of the ledger all the same, while Redis is down', async () => {
    const check = async () => {
      throw new QueueUnavailableError('Redis does not respond');
    };
    const { queue, circuitsOpen, workers, deadLetters, problems, capacity } = await stage({ check }).gauges();
    expect({ queue, circuitsOpen, workers }).to.deep.equal({
      queue: undefined,
      circuitsOpen: undefined,
      workers: undefined,
    });
    expect({ deadLetters, problems, capacity }).to.deep.equal({
      deadLetters: COUNTS,
      problems: ['queue_unavailable'],
      capacity: 50_000,
    });
  });

  it('have no counts of the ledger while PostgreSQL is down, also when they were counted before', async () => {
    let isDown = false;
    const { gauges } = stage({ check: async () => healthOf(isDown ? ['ledger_unavailable'] : []) });
    expect((await gauges()).deadLetters).to.deep.equal(COUNTS);
    isDown = true;
    expect(await gauges()).to.include({ deadLetters: undefined, reconciliation: undefined });
  });

  it('have the dead letters of a schema that is too old for reconciliations', async () => {
    const last = async () => {
      throw new LedgerUnavailableError('no such table');
    };
    expect(await stage({ last }).gauges()).to.deep.include({ deadLetters: COUNTS, reconciliation: undefined });
  });

  it('are read once for all scrapes at a time, and counted at most every 10 s', async () => {
    const { gauges, clock, calls } = stage();
    await Promise.all([gauges(), gauges(), gauges()]);
    expect([calls.check.callCount, calls.countOpen.callCount, calls.last.callCount]).to.deep.equal([1, 1, 1]);
    await clock.tickAsync(9_990);
    expect((await gauges()).deadLetters).to.deep.equal(COUNTS);
    expect([calls.check.callCount, calls.countOpen.callCount]).to.deep.equal([2, 1]);
    await clock.tickAsync(10);
    await gauges();
    expect([calls.check.callCount, calls.countOpen.callCount]).to.deep.equal([3, 2]);
  });

  it('count at most every 10 s also when counting fails', async () => {
    const countOpen = async () => {
      throw new LedgerUnavailableError('PostgreSQL does not respond');
    };
    const { gauges, clock, calls } = stage({ countOpen });
    for (let scrape = 0; scrape < 10; scrape += 1) {
      expect((await gauges()).deadLetters).to.equal(undefined);
      await clock.tickAsync(1_000);
    }
    expect(calls.countOpen.callCount).to.equal(1);
  });

  it('are there within a second whatever hangs, and nothing that hangs is asked again', async () => {
    for (const name of ['check', 'countOpen', 'last'] as const) {
      const { gauges, clock, calls } = stage({ [name]: never });
      let scraped = 0;
      for (let scrape = 1; scrape <= 3; scrape += 1) {
        void gauges().then(() => {
          scraped += 1;
        });
        await clock.tickAsync(1_000);
        expect(scraped, name).to.equal(scrape);
        await clock.tickAsync(14_000);
      }
      expect(calls[name].callCount, name).to.equal(1);
      clock.restore();
    }
  });
});
