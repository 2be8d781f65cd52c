import { expect } from 'chai';
import sinon from 'sinon';
import { type CircuitOptions, type CircuitResult, createCircuit } from '../../../src/gateways/circuit.ts';
import { MAKES_ROOM_AFTER_MS } from '../../../src/gateways/gate.ts';
import type { AttemptOutcome } from '../../../src/gateways/gateway.ts';
import type { Visitor } from '../../../src/gateways/waiting-room.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const PAID: AttemptOutcome = { kind: 'paid', onRecord: { amountCents: 1990, requestedAt: new Date(0) } };
const HTTP_502: AttemptOutcome = {
  kind: 'unknown',
  evidence: 'response',
  cause: { code: 'http_502', detail: 'HTTP 502' },
};
const BY = { who: 'ada', reason: 'maintenance', at: '2026-01-02T03:04:05.000Z' };
const TIED = { isNew: false, isTied: true };
const NEVER = Number.POSITIVE_INFINITY;
const HOUR_MS = 3_600_000;

/** A circuit under a fake clock, with two places for tied payments. `sent` lists the payments that were sent, in order. */
function setUp(options: Partial<CircuitOptions> = {}) {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  const tiedPlaces = { limit: 2, taken: 0 };
  const circuit = createCircuit({
    gateway: 'primary',
    failureThreshold: 3,
    probeIntervalMs: 200,
    probeLimitMs: 500,
    tiedPlaces,
    sparesNew: false,
    ...options,
  });
  const sent: string[] = [];
  const results = new Map<string, CircuitResult>();

  /** A payment comes; its attempt ends with this outcome, at once or when the promise resolves. */
  function visit(id: string, outcome: AttemptOutcome | Promise<AttemptOutcome>, visitor: Partial<Visitor> = {}) {
    const running = circuit.run(
      {
        correlationId: id,
        isNew: true,
        isTied: false,
        hasHadItsTurn: false,
        arrivedAtMs: performance.now(),
        maxWaitMs: NEVER,
        notBeforeMs: Number.NEGATIVE_INFINITY,
        ...visitor,
      },
      async () => {
        sent.push(id);
        return outcome;
      },
    );
    void running.then((result) => results.set(id, result));
    return running;
  }

  async function open(): Promise<void> {
    for (const id of ['a', 'b', 'c']) await visit(id, HTTP_502);
    sent.length = 0;
    results.clear();
  }

  return { clock, circuit, tiedPlaces, sent, results, visit, open, tick: (ms: number) => clock.tickAsync(ms) };
}

const notTried = (why: string) => ({ kind: 'not_tried', why });

describe('a gateway that an operator has stopped', () => {
  it('has that as its cause, with who, why and since when, and does not accept', () => {
    const { circuit } = setUp();
    circuit.steer('stopped', BY);
    expect(circuit.cause).to.deep.equal({
      code: 'stopped',
      detail: 'stopped by ada: maintenance',
      evidence: 'operator',
      since: new Date(BY.at),
    });
    expect(circuit).to.include({ isAccepting: false, steered: 'stopped', causeForTied: circuit.cause });
  });

  it('gets nothing, neither new payments nor tied ones nor look-ups, however long it takes', async () => {
    const { circuit, visit, sent, results, tick } = setUp();
    circuit.steer('stopped', BY);
    for (const id of ['a', 'b', 'c', 'd']) void visit(id, PAID);
    expect(await visit('tied', PAID, TIED)).to.deep.equal(notTried('no_place'));
    const asked = await circuit.lookUp({ isTied: true }, () => Promise.reject(new Error('was asked')));
    expect(asked).to.deep.include({ kind: 'no_response', cause: circuit.cause });
    await tick(HOUR_MS);
    expect(sent).to.deep.equal([]);
    expect([...results.keys()]).to.deep.equal(['tied']);
    expect(circuit.waiting).to.equal(4);
  });

  it('sends the tied payments that wait at its open circuit back to the queue, and gives their places back', async () => {
    const { circuit, tiedPlaces, visit, open, sent, results, tick } = setUp();
    await open();
    void visit('new', HTTP_502);
    void visit('t1', HTTP_502, TIED);
    void visit('t2', HTTP_502, TIED);
    circuit.steer('stopped', BY);
    await tick(HOUR_MS);
    // Their rule decides again. A tied payment has nowhere else to go.
    expect([...results]).to.have.deep.members(['new', 't1', 't2'].map((id) => [id, notTried('cause_changed')]));
    expect(await visit('t1', HTTP_502, TIED)).to.deep.equal(notTried('no_place'));
    expect(tiedPlaces.taken).to.equal(0);
    expect(sent).to.deep.equal([]);
  });

  it('lets what is under way end, counts it, and learns from it', async () => {
    const { circuit, visit, open, tick } = setUp();
    const late = Promise.withResolvers<AttemptOutcome>();
    const attempt = visit('late', late.promise);
    await open();
    expect(circuit.underWay).to.equal(1);
    circuit.steer('stopped', BY);
    await tick(1_000);
    expect(circuit.underWay).to.equal(1);
    late.resolve(PAID);
    expect(await attempt).to.equal(PAID);
    expect(circuit.underWay).to.equal(0);
    expect(circuit.cause?.code).to.equal('stopped');
    circuit.steer('open');
    expect(circuit.cause).to.equal(undefined);
  });

  it('counts an attempt that ends with an error before it was sent as one that has ended', async () => {
    const { circuit } = setUp();
    const visitor = { isNew: true, isTied: false, hasHadItsTurn: false, arrivedAtMs: 0, maxWaitMs: 0, notBeforeMs: -1 };
    const running = circuit.run({ correlationId: 'a', ...visitor }, () => Promise.reject(new Error('lock lost')));
    const ended = running.catch(({ message }: Error) => message);
    await Promise.resolve();
    expect(circuit.underWay).to.equal(1);
    expect(await ended).to.equal('lock lost');
    expect(circuit.underWay).to.equal(0);
  });

  it('lets a payment leave for elsewhere when its wait is over', async () => {
    const { circuit, visit, tick } = setUp();
    circuit.steer('stopped', BY);
    expect(await visit('a', PAID, { maxWaitMs: 0 })).to.deep.equal(notTried('gave_up'));
    const patient = visit('b', PAID, { maxWaitMs: 5_000 });
    await tick(5_000);
    expect(await patient).to.deep.equal(notTried('gave_up'));
  });

  it('is as its responses have left it once it is resumed: closed', async () => {
    const { circuit, visit } = setUp();
    circuit.steer('stopped', BY);
    const waiting = visit('a', PAID);
    circuit.steer('open');
    expect(await waiting).to.deep.equal(notTried('cause_changed'));
    expect(circuit).to.include({ isAccepting: true, cause: undefined, waiting: 0 });
    expect(await visit('a', PAID)).to.equal(PAID);
  });

  it('is as its responses have left it once it is resumed: open', async () => {
    const { circuit, visit, open, sent, tick } = setUp();
    await open();
    circuit.steer('stopped', BY);
    await tick(HOUR_MS);
    circuit.steer('open');
    expect(circuit.cause?.code).to.equal('http_502');
    void visit('d', HTTP_502);
    void visit('e', HTTP_502);
    await tick(1);
    expect(sent, 'one probe').to.deep.equal(['d']);
  });

  it('sends a payment that was asked for a pause back to the queue when it is resumed before that is over', async () => {
    const { circuit, visit } = setUp();
    circuit.steer('open');
    const early = visit('a', PAID, { isNew: false, notBeforeMs: performance.now() + 1_000 });
    expect(await early).to.deep.equal(notTried('no_place'));
  });

  it('gets nothing from a worker that must read first what was decided, not even a probe', async () => {
    let reading: PromiseWithResolvers<void> | undefined;
    const { circuit, visit, open, sent, tick } = setUp({ unread: () => reading?.promise });
    await open();
    void visit('probe', PAID);
    reading = Promise.withResolvers();
    await tick(HOUR_MS);
    const asked = circuit.lookUp({ isTied: true }, () => Promise.reject(new Error('was asked')));
    expect(sent).to.deep.equal([]);
    circuit.steer('stopped', BY);
    const { resolve } = reading;
    reading = undefined;
    resolve();
    expect(await asked).to.deep.include({ kind: 'no_response', cause: circuit.cause });
    await tick(HOUR_MS);
    expect(sent).to.deep.equal([]);
    circuit.steer('open');
    void visit('probe', PAID);
    await tick(1);
    expect(sent).to.deep.equal(['probe']);
  });

  it('lets every payment go when the process shuts down', async () => {
    const { circuit, visit } = setUp();
    circuit.steer('stopped', BY);
    const waiting = visit('a', PAID);
    circuit.close();
    expect(await waiting).to.deep.equal(notTried('closed'));
    expect(await visit('b', PAID)).to.deep.equal(notTried('closed'));
  });
});

describe('a gateway that an operator drains', () => {
  it('gets tied payments and their look-ups, and no others', async () => {
    const { circuit, visit, sent, tick } = setUp();
    circuit.steer('draining', BY);
    void visit('new', PAID);
    expect(await visit('tied', PAID, TIED)).to.equal(PAID);
    const found = { kind: 'not_found' } as const;
    expect(await circuit.lookUp({ isTied: true }, async () => found)).to.equal(found);
    expect(await circuit.lookUp({ isTied: false }, async () => found)).to.include({ kind: 'no_response' });
    await tick(HOUR_MS);
    expect(sent).to.deep.equal(['tied']);
    expect(circuit).to.deep.include({ isAccepting: false, causeForTied: undefined });
    expect(circuit.cause).to.include({ code: 'draining', detail: 'drained by ada: maintenance' });
  });

  it('is probed by tied payments alone while its circuit is open', async () => {
    const { circuit, visit, open, sent, tick } = setUp();
    await open();
    circuit.steer('draining', BY);
    expect(circuit.causeForTied?.code).to.equal('http_502');
    void visit('new', PAID);
    void visit('tied', HTTP_502, TIED);
    await tick(200);
    expect(sent).to.deep.equal(['tied']);
  });

  it('keeps no more free payments in the worker than tied ones may take, so that those are fetched', async () => {
    const { circuit, visit, results, tick } = setUp();
    circuit.steer('draining', BY);
    for (const id of ['a', 'b', 'c', 'd']) void visit(id, PAID);
    await tick(MAKES_ROOM_AFTER_MS - 1);
    expect(circuit.waiting).to.equal(4);
    await tick(1);
    expect([...results]).to.deep.equal(['c', 'd'].map((id) => [id, notTried('no_place')]));
    await tick(HOUR_MS);
    expect(circuit.waiting).to.equal(2);
  });

  it('makes room also of payments that come back to look for another gateway', async () => {
    const { circuit, visit, tick } = setUp();
    circuit.steer('draining', BY);
    for (const id of ['a', 'b']) void visit(id, PAID);
    const arrivedAtMs = performance.now();
    const recheck = () => visit('c', PAID, { arrivedAtMs, maxWaitMs: 250 });
    for (let n = 0; n < 3; n += 1) {
      const rechecked = recheck();
      await tick(250);
      expect(await rechecked).to.deep.equal(notTried('gave_up'));
    }
    const last = recheck();
    await tick(250);
    expect(await Promise.race([last, recheck()])).to.deep.include({ kind: 'not_tried' });
    expect(await recheck()).to.deep.equal(notTried('no_place'));
  });
});
