import { expect } from 'chai';
import { firstMinute, MINUTES, type Readings, toRelayState } from '../../../src/operations/relay-state.ts';
import { parseHeartbeat } from '../../../src/queue/parse-heartbeat.ts';
import type { QueueState } from '../../../src/queue/queue-state.ts';
import type { WorkerVitals } from '../../../src/telemetry/heartbeat.ts';
import { HOP_BOUNDS_MS } from '../../../src/telemetry/histogram.ts';
import { EMPTY_QUEUE } from '../../support/empty-queue.ts';

const [EARLY, LATE] = ['2026-01-01T12:00:00.000Z', '2026-01-01T12:10:00.000Z'];
const MINUTE_MS = 60_000;
const NOW_MS = Date.parse('2026-01-01T12:34:56.000Z');

const QUEUE: QueueState = {
  ...EMPTY_QUEUE,
  nowMs: NOW_MS,
  size: 12,
  waiting: 7,
  delayed: 5,
  inFlight: 2,
  oldestMs: 61_500,
  unresolved: { primary: { count: 2, oldestMs: 90_000 }, fallback: { count: 0, oldestMs: 0 } },
};

const NOTHING: Readings = {
  at: new Date(NOW_MS),
  problems: [],
  maxSize: 100,
  queue: undefined,
  accepted: undefined,
  paid: undefined,
  deadLetters: undefined,
  reconciliation: undefined,
  actions: undefined,
};

const heartbeat = (fields: object) => parseHeartbeat(JSON.stringify({ id: 'x', role: 'all', ...fields }))!;

const worker = (gateways: Partial<WorkerVitals['gateways']>) => {
  const none = { waiting: 0 };
  const vitals = {
    workerId: 'w',
    concurrency: 4,
    inFlight: 1,
    gateways: { primary: none, fallback: none, ...gateways },
  };
  return { ...heartbeat({}), worker: vitals };
};

/** Counts in the bucket of this bound. */
function hop(boundMs: number, count: number): number[] {
  return [...HOP_BOUNDS_MS, Number.POSITIVE_INFINITY].map((bound) => (bound === boundMs ? count : 0));
}

const stateOf = (queue: Partial<QueueState>) => toRelayState({ ...NOTHING, queue: { ...QUEUE, ...queue } });

describe('toRelayState', () => {
  it('adds up the rates of all processes', () => {
    const rates = (accepted: number, primary: number) => ({
      rates: { accepted, notAccepted: 1, paid: { primary, fallback: 0.1 } },
    });
    const { rates: sum } = stateOf({ heartbeats: [heartbeat(rates(10.5, 0)), heartbeat(rates(2, 7.25))] });
    expect(sum).to.deep.equal({ accepted: 12.5, notAccepted: 2, paid: { primary: 7.25, fallback: 0.2 } });
  });

  it('takes the quantiles of the histograms of all processes together, not the mean of theirs', () => {
    const heartbeats = [heartbeat({ hops: { send: hop(2, 90) } }), heartbeat({ hops: { send: hop(1_000, 10) } })];
    const { hops } = stateOf({ heartbeats });
    expect(hops!.send.count).to.equal(100);
    expect(hops!.send.p50Ms).to.be.within(1, 2);
    expect(hops!.send.p99Ms).to.be.within(900, 1_000);
    expect(hops!.record).to.deep.equal({ count: 0, p50Ms: undefined, p99Ms: undefined });
  });

  it('has the earliest cause of an open circuit, in how many workers it is, and what waits in all', () => {
    const down = (since: string, detail: string) => ({ since, code: 'x', detail });
    const { gateways } = stateOf({
      heartbeats: [
        worker({ primary: { down: down(LATE, 'HTTP 502'), waiting: 3, underWay: 1 } }),
        worker({ primary: { down: down(EARLY, 'HTTP 500'), waiting: 4 } }),
        worker({}),
        heartbeat({ role: 'api' }),
      ],
    });
    const { primary, fallback } = gateways!;
    expect(primary.down).to.deep.equal({ since: EARLY, code: 'x', detail: 'HTTP 500', workers: 2 });
    expect(primary).to.include({ waiting: 7, underWay: 1 });
    expect(primary.unresolved).to.deep.equal({ count: 2, oldestSeconds: 90 });
    expect(fallback.down).to.equal(undefined);
  });

  it('says how far the workers follow what operators have decided', () => {
    const by = { who: 'ana', reason: 'a <b>reason</b>', at: EARLY };
    const steering = { primary: { state: 'stopped', by }, fallback: { state: 'open' } } as const;
    const heartbeats = [worker({ primary: { waiting: 0, steered: 'stopped' } }), worker({})];
    const { primary, fallback } = stateOf({ steering, heartbeats }).gateways!;
    expect(primary.steered).to.deep.equal({ state: 'stopped', by });
    expect(primary.followed).to.deep.equal({ open: 1, draining: 0, stopped: 1 });
    expect(fallback.followed).to.deep.equal({ open: 2, draining: 0, stopped: 0 });
  });

  it('puts what was paid into its minute by the clock of Redis, and leaves out what lies outside of the hour', () => {
    const fromMs = firstMinute(NOW_MS);
    const at = (minute: number) => new Date(fromMs + minute * MINUTE_MS);
    const accepted = Array.from({ length: MINUTES }, (_, minute) => minute);
    const { lastHour } = toRelayState({
      ...NOTHING,
      // This node's clock is wrong by a day.
      at: new Date(NOW_MS + 86_400_000),
      accepted: { fromMs, accepted },
      paid: [
        { at: at(0), gateway: 'primary', payments: 3, amountCents: 300 },
        { at: at(59), gateway: 'fallback', payments: 1, amountCents: 199 },
        { at: at(-1), gateway: 'primary', payments: 1_000, amountCents: 1 },
        { at: at(60), gateway: 'primary', payments: 1_000, amountCents: 1 },
      ],
    });
    expect(lastHour!.from.toISOString()).to.equal('2026-01-01T11:35:00.000Z');
    expect(lastHour!.accepted).to.deep.equal(accepted);
    const { primary, fallback } = lastHour!.paid!;
    expect(primary.payments).to.deep.equal([3, ...Array(59).fill(0)]);
    expect(fallback.amountCents).to.deep.equal([...Array(59).fill(0), 199]);
  });

  it('has the part of the hour that one store knows while the other is down', () => {
    const accepted = { fromMs: firstMinute(NOW_MS), accepted: Array<number>(MINUTES).fill(1) };
    expect(toRelayState({ ...NOTHING, accepted }).lastHour).to.include({ paid: undefined });
    expect(toRelayState({ ...NOTHING, paid: [] }).lastHour).to.include({ accepted: undefined });
    expect(toRelayState(NOTHING).lastHour).to.equal(undefined);
  });

  it('leaves out of its JSON what could not be read', () => {
    const problems = [{ code: 'queue_unavailable', since: EARLY, cause: 'connection refused' }] as const;
    expect(JSON.parse(JSON.stringify(toRelayState({ ...NOTHING, problems })))).to.deep.equal({
      at: new Date(NOW_MS).toISOString(),
      problems,
    });
  });
});
