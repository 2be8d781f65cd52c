import { expect } from 'chai';
import {
  ACCEPTED_AT,
  BOUND_AND_DOUBTED,
  DOUBTED,
  DOUBTFUL,
  FOUND,
  FREE,
  ID,
  LOOK_UP_FAILED,
  NO_RESPONSE,
  NOT_FOUND,
  ON_RECORD,
  PAID,
  REFUSED,
  UNRESOLVED,
} from './given.ts';
import {
  expectDeadLetter,
  expectRequeue,
  open,
  PROBE_INTERVAL_MS,
  REJECT_AFTER_MS,
  type RunOptions,
  type Scene,
  stage,
} from './stage.ts';

const OTHER = { payload: { correlationId: ID.replace('4a', '4b'), amount: 1 } };
/** Three doubts before this run, and no other attempt. */
const DOUBTED_THRICE = { runs: 3, isUnresolved: false, doubts: 3, doubtedSinceMs: ACCEPTED_AT.getTime() };

/** Another payment is paid after the first doubt, then comes the last doubt. Each test removes one condition. */
async function lastDoubt({
  scene = {},
  options = {},
  sinceFirstDoubtMs = REJECT_AFTER_MS,
  isOtherPaid = true,
}: {
  scene?: Scene;
  options?: RunOptions;
  sinceFirstDoubtMs?: number;
  isOtherPaid?: boolean;
} = {}) {
  const set = stage({ primary: isOtherPaid ? [PAID, DOUBTFUL] : [DOUBTFUL], primaryLookUp: NOT_FOUND, ...scene });
  await set.clock.tickAsync(1);
  if (isOtherPaid) await set.run(OTHER);
  await set.clock.tickAsync(sinceFirstDoubtMs - 1);
  set.events.length = 0;
  return { ...set, end: await set.run({ history: DOUBTED_THRICE, ...options }) };
}

describe('processPayment, after a doubtful attempt', () => {
  it('requeues as doubtful with the pauses of doubts, and without a look-up', async () => {
    for (const state of [FREE, DOUBTED]) {
      const { run, events } = stage({ primary: [DOUBTFUL] });
      expectRequeue(await run(state), { end: 'doubtful', pause: 'doubted', code: 'http_400' });
      expect(events).to.deep.equal(['look up', 'send to primary']);
    }
  });

  it('has the pauses of doubts at the fallback, too', async () => {
    const { run } = stage({ fallback: [DOUBTFUL] });
    expectRequeue(await run(BOUND_AND_DOUBTED), { end: 'doubtful', pause: 'doubted' });
  });

  it('ends the run even while the circuit is open, so that the doubt counts', async () => {
    const { start, clock, primary } = stage({ primary: [DOUBTFUL] });
    await open(primary, REFUSED);
    const running = start(DOUBTED);
    await clock.tickAsync(PROBE_INTERVAL_MS);
    expectRequeue(running.end, { end: 'doubtful', pause: 'doubted' });
  });

  it('sends again over a new connection in the next run', async () => {
    const { run, histories } = stage({ primary: [DOUBTFUL, PAID] });
    await run();
    await run(DOUBTED);
    expect(histories.map(({ onNewConnection }) => onNewConnection)).to.deep.equal([false, true]);
  });

  it('counts as unresolved, not as doubtful, when the run had an unknown attempt before', async () => {
    const { start, clock, primary } = stage({ primary: [NO_RESPONSE, DOUBTFUL] });
    await open(primary, REFUSED);
    const running = start();
    await clock.tickAsync(2 * PROBE_INTERVAL_MS);
    expectRequeue(running.end, { end: 'unresolved', pause: 'tied' });
  });

  it('records what the look-up finds when an earlier run is unresolved', async () => {
    const { run, events, recorded } = stage({ primary: [DOUBTFUL], primaryLookUp: FOUND });
    expect(await run(UNRESOLVED)).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'send to primary', 'ask primary', 'record']);
    expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'primary', ...ON_RECORD }]);
  });

  it('records what the look-up finds when this run had an unknown attempt', async () => {
    const { start, clock, primary, recorded } = stage({ primary: [NO_RESPONSE, DOUBTFUL], primaryLookUp: FOUND });
    await open(primary, REFUSED);
    const running = start();
    await clock.tickAsync(2 * PROBE_INTERVAL_MS);
    expect(running.end).to.equal('completed');
    expect(recorded).to.have.lengthOf(1);
  });

  it('stays unresolved when the look-up finds nothing', async () => {
    for (const primaryLookUp of [NOT_FOUND, LOOK_UP_FAILED]) {
      const { run, events } = stage({ primary: [DOUBTFUL], primaryLookUp });
      expectRequeue(await run(UNRESOLVED), { end: 'doubtful', pause: 'tied', code: 'http_400' });
      expect(events).to.deep.equal(['look up', 'send to primary', 'ask primary']);
    }
  });
});

describe('processPayment, rejection', () => {
  it('makes a dead letter tied to the gateway when every condition holds', async () => {
    const { end, events, letters } = await lastDoubt();
    expectDeadLetter(end, 'rejected: primary gateway: HTTP 400: {}');
    expect(events).to.deep.equal(['look up', 'send to primary', 'ask primary', 'bury']);
    expect(letters).to.have.lengthOf(1);
    expect(letters[0]).to.include({ jobId: ID, correlationId: ID, code: 'rejected', gateway: 'primary', attempts: 4 });
  });

  it('makes a dead letter tied to the fallback of a payment bound there', async () => {
    const scene = { fallback: [PAID, DOUBTFUL] };
    const set = stage(scene);
    await set.clock.tickAsync(1);
    await set.run({ ...OTHER, boundTo: 'fallback' });
    await set.clock.tickAsync(REJECT_AFTER_MS);
    expectDeadLetter(
      await set.run({ history: DOUBTED_THRICE, boundTo: 'fallback' }),
      'rejected: fallback gateway: HTTP 400: {}',
    );
    expect(set.letters[0]).to.include({ gateway: 'fallback' });
  });

  it('does not reject before three doubts over new connections', async () => {
    const { end, letters } = await lastDoubt({ options: { history: { ...DOUBTED_THRICE, runs: 2, doubts: 2 } } });
    expectRequeue(end, { end: 'doubtful', pause: 'doubted' });
    expect(letters).to.deep.equal([]);
  });

  it('does not reject before GATEWAY_REJECT_AFTER_MS since the first doubt', async () => {
    const { end, letters } = await lastDoubt({ sinceFirstDoubtMs: REJECT_AFTER_MS - 1 });
    expectRequeue(end, { end: 'doubtful', pause: 'doubted' });
    expect(letters).to.deep.equal([]);
  });

  it('does not reject while an earlier run is unresolved', async () => {
    const options = { history: { ...DOUBTED_THRICE, runs: 4, isUnresolved: true } };
    const { end, letters } = await lastDoubt({ options });
    expectRequeue(end, { end: 'doubtful', pause: 'tied' });
    expect(letters).to.deep.equal([]);
  });

  it('does not reject after an unknown attempt of the same run', async () => {
    const set = stage({ primary: [PAID, NO_RESPONSE, DOUBTFUL] });
    await set.clock.tickAsync(1);
    await set.run(OTHER);
    await set.clock.tickAsync(REJECT_AFTER_MS);
    await open(set.primary, REFUSED);
    const running = set.start({ history: DOUBTED_THRICE });
    await set.clock.tickAsync(2 * PROBE_INTERVAL_MS);
    expect(set.events.at(-1)).to.equal('ask primary');
    expect(set.letters).to.deep.equal([]);
    expectRequeue(running.end, { end: 'unresolved', pause: 'tied' });
  });

  it('does not reject when the look-up has no response', async () => {
    const { end, letters } = await lastDoubt({ scene: { primaryLookUp: LOOK_UP_FAILED } });
    expectRequeue(end, { end: 'doubtful', pause: 'doubted' });
    expect(letters).to.deep.equal([]);
  });

  it('records the payment when the look-up finds it', async () => {
    const { end, letters, recorded } = await lastDoubt({ scene: { primaryLookUp: FOUND } });
    expect(end).to.equal('completed');
    expect(letters).to.deep.equal([]);
    expect(recorded.at(-1)).to.deep.equal({ correlationId: ID, gateway: 'primary', ...ON_RECORD });
  });

  it('does not reject while no other payment was paid there', async () => {
    const { end, letters } = await lastDoubt({ isOtherPaid: false });
    expectRequeue(end, { end: 'doubtful', pause: 'doubted' });
    expect(letters).to.deep.equal([]);
  });

  it('does not reject when another payment was paid there only before the first doubt', async () => {
    const set = stage({ primary: [PAID, DOUBTFUL] });
    await set.run(OTHER);
    await set.clock.tickAsync(REJECT_AFTER_MS + 1);
    const history = { ...DOUBTED_THRICE, doubtedSinceMs: ACCEPTED_AT.getTime() + 1 };
    expectRequeue(await set.run({ history }), { end: 'doubtful', pause: 'doubted' });
    expect(set.letters).to.deep.equal([]);
  });

  it('does not count a 422 for another payment as one that was paid', async () => {
    const scene = { primary: [{ kind: 'already_paid', onRecord: ON_RECORD } as const, DOUBTFUL] };
    const { end, letters } = await lastDoubt({ scene });
    expectRequeue(end, { end: 'doubtful', pause: 'doubted' });
    expect(letters).to.deep.equal([]);
  });

  it('does not count a payment at the other gateway as one that was paid here', async () => {
    const set = stage({ primary: [DOUBTFUL], fallback: [PAID] });
    await set.clock.tickAsync(1);
    await set.run({ ...OTHER, boundTo: 'fallback' });
    await set.clock.tickAsync(REJECT_AFTER_MS);
    expectRequeue(await set.run({ history: DOUBTED_THRICE }), { end: 'doubtful', pause: 'doubted' });
    expect(set.letters).to.deep.equal([]);
  });

  it('requeues when the dead letter cannot be recorded', async () => {
    const bury = () => Promise.reject(new Error('permission denied'));
    const { end } = await lastDoubt({ scene: { bury } });
    expectRequeue(end, { end: 'clean', pause: 'backoff', code: 'ledger_unavailable' });
  });
});
