import { expect } from 'chai';
import { createRelayHealthCheck } from '../../../src/operations/relay-health.ts';
import { parseHeartbeat } from '../../../src/queue/parse-heartbeat.ts';
import type { QueueState } from '../../../src/queue/queue-state.ts';
import type { GatewayVitals, WorkerVitals } from '../../../src/telemetry/heartbeat.ts';
import { EMPTY_QUEUE } from '../../support/empty-queue.ts';

const [EARLY, LATE] = ['2026-01-01T12:00:00.000Z', '2026-01-01T12:10:00.000Z'];

function heartbeat(fields: { worker?: Partial<WorkerVitals>; problems?: Record<string, string> }) {
  return parseHeartbeat(JSON.stringify({ id: 'x', role: 'all', ...fields }))!;
}

const worker = (primary: GatewayVitals = { waiting: 0 }, rest: Partial<WorkerVitals> = {}) =>
  heartbeat({ worker: { gateways: { primary, fallback: { waiting: 0 } }, ...rest } });

const downSince = (since: string, detail: string): GatewayVitals => ({
  down: { since, code: 'x', detail },
  waiting: 1,
});

/** Looks at this state. */
async function problemsOf(state: Partial<QueueState>, ping: () => Promise<void> = async () => {}) {
  const check = createRelayHealthCheck({
    queueWatch: { read: async () => ({ ...EMPTY_QUEUE, ...state }) },
    refusal: () => undefined,
    ledger: { ping },
    serverCheck: { fault: undefined, problems: [] },
    maxSize: 10,
  });
  return (await check.check()).problems;
}

describe('relay health', () => {
  it('says in how many workers a gateway is down, with the earliest time and its cause', async () => {
    const heartbeats = [worker(downSince(LATE, 'HTTP 502')), worker(downSince(EARLY, 'HTTP 500')), worker()];
    const [problem, ...others] = await problemsOf({ heartbeats });
    expect(others).to.deep.equal([]);
    expect(problem).to.include({ code: 'primary_down', since: EARLY });
    expect(problem!.cause).to.match(/HTTP 500 \(in 2 of 3 workers\)$/);
  });

  it('says nothing of numbers when a gateway is down in all workers', async () => {
    const heartbeats = [worker(downSince(LATE, 'HTTP 502')), worker(downSince(EARLY, 'HTTP 500'))];
    const [problem] = await problemsOf({ heartbeats });
    expect(problem!.cause).to.match(/HTTP 500$/);
  });

  it('names every worker that fails where others pay, and does not call the gateway down for it', async () => {
    const alone = (since: string, detail: string): GatewayVitals => ({
      ...downSince(since, 'refused'),
      alone: { since, code: 'ECONNREFUSED', detail },
    });
    const heartbeats = [
      worker(alone(LATE, 'worker 12 at a: refused')),
      worker(alone(EARLY, 'worker 7 at b: no')),
      worker(),
    ];
    const problems = await problemsOf({ heartbeats });
    expect(problems).to.have.length(1);
    expect(problems[0]).to.include({ code: 'worker_alone', since: EARLY });
    expect(problems[0]!.cause).to.include(
      'worker 12 at a: refused (primary gateway); worker 7 at b: no (primary gateway)',
    );
  });

  it('has the earliest time at which any node saw a problem that does not know its own', async () => {
    const heartbeats = [
      worker(),
      heartbeat({ problems: { queue_paused: LATE } }),
      heartbeat({ problems: { queue_paused: EARLY, queue_full: LATE } }),
    ];
    const problems = await problemsOf({ heartbeats, isPaused: true });
    expect(problems.map(({ code, since }) => [code, since])).to.deep.equal([['queue_paused', EARLY]]);
  });

  it("reports the fault of a worker's Redis as the problem that it is", async () => {
    const fault = { since: EARLY, code: 'eviction_policy', detail: 'it evicts' };
    const problems = await problemsOf({ heartbeats: [worker(undefined, { fault }), worker()] });
    expect(problems).to.have.length(1);
    expect(problems[0]).to.include({ code: 'eviction_policy', since: EARLY });
    expect(problems[0]!.cause).to.include('1 of 2');
  });

  it('lists the worst first', async () => {
    const shards = [{ size: 10, isPaused: true }];
    const codes = (await problemsOf({ size: 10, isPaused: true, shards })).map(({ code }) => code);
    expect(codes).to.deep.equal(['queue_full', 'queue_paused', 'no_worker']);
  });

  it('names the shards that are full, paused or do not reply', async () => {
    const shards = [
      { size: 2, isPaused: false },
      { failure: { code: 'unreachable', detail: 'it does not respond' } },
      { size: 1, isPaused: true },
      { size: 3, isPaused: false },
      { size: 0, isPaused: false },
    ];
    const problems = await problemsOf({ size: 6, isPaused: true, shards, heartbeats: [worker()] });
    expect(problems.map(({ code, cause }) => [code, cause])).to.have.deep.members([
      ['queue_unavailable', 'payments of shard 2 of 5 are not accepted: it does not respond'],
      ['queue_full', 'full: shard 1, 4 of 5; each has room for 2 payments of PAYMENT_QUEUE_MAX_SIZE'],
      ['queue_paused', 'workers take no payments of shard 3 of 5: the queue was paused'],
    ]);
  });

  it('keeps what a look finds, and forgets what has ended', async () => {
    const state = { isPaused: true };
    const check = createRelayHealthCheck({
      queueWatch: { read: async () => ({ ...EMPTY_QUEUE, ...state, heartbeats: [worker()] }) },
      refusal: () => undefined,
      ledger: { ping: () => Promise.reject(new Error('a look does not ask PostgreSQL')) },
      serverCheck: { fault: undefined, problems: [] },
      maxSize: 10,
    });
    await check.look();
    expect(Object.keys(check.seen)).to.deep.equal(['queue_paused']);
    state.isPaused = false;
    await check.look();
    expect(check.seen).to.deep.equal({});
  });
});
