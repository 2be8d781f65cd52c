import { expect } from 'chai';
import sinon from 'sinon';
import { FAILS_ALONE_AFTER } from '../../../src/gateways/alone.ts';
import { type CircuitResult, createCircuit } from '../../../src/gateways/circuit.ts';
import { BELIEVES_ITSELF_MS, type Heard } from '../../../src/gateways/fleet.ts';
import type { AttemptOutcome } from '../../../src/gateways/gateway.ts';
import { createInFlightLimit } from '../../../src/gateways/in-flight-limit.ts';
import {
  NEW_PROBE_EVERY_MS,
  NEW_PROBES,
  type ProbeAnswer,
  type ProbeRight,
  UNASKED_EVERY_MS,
} from '../../../src/gateways/probes.ts';
import type { Visitor } from '../../../src/gateways/waiting-room.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const PROBE_INTERVAL_MS = 200;
const PROBE_LIMIT_MS = 500;

const PAID: AttemptOutcome = { kind: 'paid', onRecord: { amountCents: 1990, requestedAt: new Date(0) } };
const HTTP_502: AttemptOutcome = {
  kind: 'unknown',
  evidence: 'response',
  cause: { code: 'http_502', detail: 'HTTP 502' },
};

const NO_RESPONSE: AttemptOutcome = {
  kind: 'unknown',
  evidence: 'no_response',
  cause: { code: 'ETIMEDOUT', detail: 'no response' },
};

const FREE: ProbeAnswer = { kind: 'granted', newNotTaken: 0, newSentAgoMs: Number.POSITIVE_INFINITY };
const heldFor = (forMs: number): ProbeAnswer => ({ ...FREE, kind: 'held', forMs });

const NOTHING: Heard = { paidAtMs: Number.NEGATIVE_INFINITY, down: undefined, hasWitness: true };
const DOWN: Heard = {
  ...NOTHING,
  down: { code: 'ETIMEDOUT', detail: 'no response', evidence: 'no_response', since: new Date(0) },
};

/** A circuit with others beside it, under a fake clock. `answers` are those to its questions, the last one for all further ones. */
function setUp({
  answers = [FREE],
  limit,
  probeLimitMs = PROBE_LIMIT_MS,
}: {
  answers?: ProbeAnswer[];
  limit?: number;
  probeLimitMs?: number;
} = {}) {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  clock.tick(60_000);
  const asked: number[] = [];
  const told: Parameters<ProbeRight['tell']>[0][] = [];
  const changes: string[] = [];
  const circuit = createCircuit({
    gateway: 'primary',
    failureThreshold: 3,
    probeIntervalMs: PROBE_INTERVAL_MS,
    probeLimitMs,
    tiedPlaces: { limit: 2, taken: 0 },
    sparesNew: false,
    ...(limit !== undefined && { inFlightLimit: createInFlightLimit(limit) }),
    onOpened: () => changes.push('opened'),
    onClosed: () => changes.push('closed'),
    onAlone: (alone) => changes.push(alone ? 'alone' : 'not alone'),
    right: {
      hasOthers: true,
      async ask() {
        asked.push(performance.now());
        return answers.length > 1 ? answers.shift()! : answers[0]!;
      },
      tell: (change) => told.push(change),
      end: () => changes.push('right ended'),
    },
  });
  const sent: string[] = [];
  const results = new Map<string, CircuitResult>();
  function visit(
    id: string,
    outcome: AttemptOutcome,
    { tookMs = 0, ...rest }: Partial<Visitor> & { tookMs?: number } = {},
  ) {
    const visitor: Visitor = {
      ...{ correlationId: id, isNew: true, isTied: false, hasHadItsTurn: false, arrivedAtMs: performance.now() },
      ...{ maxWaitMs: Number.POSITIVE_INFINITY, notBeforeMs: Number.NEGATIVE_INFINITY },
      ...rest,
    };
    const running = circuit.run(visitor, async () => {
      sent.push(id);
      if (tookMs > 0) await new Promise((resolve) => setTimeout(resolve, tookMs));
      return outcome;
    });
    void running.then((result) => results.set(id, result));
    return running;
  }
  async function open(): Promise<void> {
    for (const id of ['a', 'b', 'c']) await visit(id, HTTP_502);
    sent.length = 0;
    told.length = 0;
  }
  /** Another worker has paid just now. */
  const paidElsewhere = (): Heard => ({ ...NOTHING, paidAtMs: performance.now() });
  const tick = (ms: number) => clock.tickAsync(ms);
  return { circuit, asked, told, changes, sent, results, visit, open, paidElsewhere, tick };
}

describe('a circuit in a fleet', () => {
  describe('that fails', () => {
    it('asks for the right before each probe, and tells when the next one is due', async () => {
      const { asked, told, sent, visit, open, tick } = setUp();
      await open();
      void visit('d', HTTP_502);
      await tick(2 * PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['d']);
      expect(asked).to.have.length(1);
      expect(told).to.deep.include({ sentNew: true }).and.to.deep.include({ pauseMs: PROBE_INTERVAL_MS });
      expect(told).to.deep.include({ notTaken: true });
    });

    it('sends nothing while another worker has the right, and asks again when that may be free', async () => {
      const { asked, sent, visit, open, tick } = setUp({ answers: [heldFor(PROBE_LIMIT_MS), heldFor(50), FREE] });
      await open();
      void visit('d', HTTP_502);
      await tick(2 * PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal([]);
      await tick(2 * PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['d']);
      expect(asked).to.have.length(3);
    });

    it('sends no new payment when all workers together have sent enough of them', async () => {
      const { sent, told, visit, open, tick } = setUp({
        answers: [{ kind: 'granted', newNotTaken: NEW_PROBES, newSentAgoMs: 1_000 }],
      });
      await open();
      void visit('new', HTTP_502);
      await tick(NEW_PROBE_EVERY_MS - 2_000);
      expect(sent).to.deep.equal([]);
      expect(told, 'the right is given back').to.deep.include({ pauseMs: 0 });
      void visit('retry', HTTP_502, { isNew: false });
      await tick(2 * PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['retry']);
    });

    it('probes by itself while Redis does not say which worker may, but rarely', async () => {
      const { sent, visit, open, tick } = setUp({ answers: [{ kind: 'unknown' }] });
      await open();
      for (let n = 0; n < 20; n += 1) void visit(`new ${n}`, HTTP_502);
      await tick(1_000);
      expect(sent).to.have.length.within(1, 2);
      await tick(10 * UNASKED_EVERY_MS);
      expect(sent).to.have.length.within(9, 13);
    });

    it('asks for a payment that does not wait, too', async () => {
      const { visit, open, tick } = setUp({ answers: [heldFor(100), FREE] });
      await open();
      await tick(2 * PROBE_INTERVAL_MS);
      expect(await visit('d', PAID, { maxWaitMs: 0 })).to.deep.equal({ kind: 'not_tried', why: 'gave_up' });
      await tick(PROBE_INTERVAL_MS);
      expect(await visit('e', PAID, { maxWaitMs: 0 })).to.equal(PAID);
    });

    it('asks for the right again only after the others could, when its probe hangs', async () => {
      const { asked, visit, open, tick } = setUp();
      await open();
      void visit('hangs', NO_RESPONSE, { tookMs: 10 * PROBE_LIMIT_MS });
      void visit('waits', PAID);
      await tick(PROBE_INTERVAL_MS + PROBE_LIMIT_MS + 2 * PROBE_INTERVAL_MS);
      expect(asked).to.have.length(2);
      expect(asked[1]! - asked[0]!).to.be.within(
        PROBE_LIMIT_MS + PROBE_INTERVAL_MS / 4,
        PROBE_LIMIT_MS + PROBE_INTERVAL_MS,
      );
    });

    it('hands the turn on when the attempt of its probe is broken off', async () => {
      const { circuit, told, sent, visit, open, tick } = setUp();
      await open();
      await tick(2 * PROBE_INTERVAL_MS);
      const lostLock = new Error('the lock of the job was not renewed in time');
      const visitor = { correlationId: 'lost', isNew: true, isTied: false, hasHadItsTurn: false, arrivedAtMs: 0 };
      const lost = circuit.run({ ...visitor, maxWaitMs: 1_000, notBeforeMs: Number.NEGATIVE_INFINITY }, () => {
        throw lostLock;
      });
      expect(await lost.catch((error: unknown) => error)).to.equal(lostLock);
      expect(told).to.deep.include({ pauseMs: PROBE_INTERVAL_MS });
      void visit('next', PAID);
      await tick(2 * PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['next']);
      expect(circuit.underWay).to.equal(0);
    });

    it('tells when its own attempts opened it, and ends the right with its first payment', async () => {
      const { circuit, changes, visit, open, tick } = setUp();
      await open();
      expect(changes).to.deep.equal(['opened']);
      expect(circuit.told().open).to.include({ code: 'http_502', agoMs: 0 });
      void visit('d', PAID);
      await tick(2 * PROBE_INTERVAL_MS);
      expect(changes).to.deep.equal(['opened', 'right ended', 'closed']);
      expect(circuit.told().open).to.equal(undefined);
      expect(circuit.told().paidAgoMs).to.be.within(0, PROBE_INTERVAL_MS);
    });
  });

  describe('that hears of a failure', () => {
    it('opens, and does not pass the rumour on', async () => {
      const { circuit, visit, results, tick } = setUp({ answers: [heldFor(1_000)] });
      circuit.hear(DOWN);
      expect(circuit.cause).to.include({ code: 'ETIMEDOUT' });
      expect(circuit.told()).to.deep.equal({ hasHeard: true });
      void visit('d', PAID);
      await tick(1_000);
      expect(results.size).to.equal(0);
    });

    it('believes itself while it has paid within two seconds', async () => {
      const { circuit, visit, tick } = setUp();
      await visit('a', PAID);
      await tick(BELIEVES_ITSELF_MS - 100);
      circuit.hear(DOWN);
      expect(circuit.cause).to.equal(undefined);
      await tick(200);
      circuit.hear(DOWN);
      expect(circuit.cause).to.not.equal(undefined);
    });

    it('lets all payments pass when another worker pays', async () => {
      const { circuit, paidElsewhere, visit, sent, tick } = setUp({ answers: [heldFor(1_000)] });
      circuit.hear(DOWN);
      for (const id of ['d', 'e', 'f']) void visit(id, PAID);
      await tick(500);
      circuit.hear(paidElsewhere());
      await tick(1);
      expect(sent).to.deep.equal(['d', 'e', 'f']);
    });

    it('closes when nobody says so any more and no payment waits, and keeps those that wait otherwise', async () => {
      const { circuit, visit, sent, tick } = setUp({ answers: [heldFor(1_000)] });
      circuit.hear(DOWN);
      void visit('d', PAID, { maxWaitMs: 500 });
      await tick(100);
      circuit.hear(NOTHING);
      expect(circuit.cause).to.not.equal(undefined);
      await tick(500);
      circuit.hear(NOTHING);
      expect(circuit.cause).to.equal(undefined);
      expect(sent).to.deep.equal([]);
    });
  });

  describe('that hears of a payment while its own attempts fail', () => {
    it('sends one payment without the right, and all others only when that was paid', async () => {
      const { circuit, asked, paidElsewhere, visit, sent, open, tick } = setUp({ answers: [heldFor(60_000)] });
      await open();
      void visit('d', PAID, { tookMs: 50 });
      void visit('e', PAID);
      void visit('f', PAID);
      await tick(PROBE_INTERVAL_MS + 200);
      const before = asked.length;
      circuit.hear(paidElsewhere());
      await tick(20);
      expect(sent).to.deep.equal(['d']);
      await tick(40);
      expect(sent).to.deep.equal(['d', 'e', 'f']);
      expect(asked).to.have.length(before);
    });

    it('closes when no payment waits and none has failed for two seconds', async () => {
      const { circuit, paidElsewhere, open, tick } = setUp();
      await open();
      await tick(500);
      circuit.hear(paidElsewhere());
      expect(circuit.cause).to.not.equal(undefined);
      expect(circuit.isAccepting).to.equal(true);
      await tick(BELIEVES_ITSELF_MS);
      circuit.hear(paidElsewhere());
      expect(circuit.cause).to.equal(undefined);
    });

    it('fails alone, too, when no response comes and no other payment waits meanwhile', async () => {
      const { circuit, paidElsewhere, visit, open, tick } = setUp();
      await open();
      for (let n = 0; n < 2 * FAILS_ALONE_AFTER; n += 1) {
        void visit(`new ${n}`, HTTP_502, { tookMs: 300 });
        for (let waited = 0; waited < 4; waited += 1) {
          await tick(100);
          circuit.hear(paidElsewhere());
        }
      }
      expect(circuit.alone).to.not.equal(undefined);
    });

    for (const timeOutMs of [1_000, 10_000]) {
      it(`sends hardly more than three payments before it fails alone, with a time-out of ${timeOutMs} ms`, async () => {
        const { circuit, paidElsewhere, visit, sent, tick } = setUp({ probeLimitMs: timeOutMs / 2 });
        for (const id of ['a', 'b', 'c']) void visit(id, NO_RESPONSE, { tookMs: timeOutMs });
        await tick(timeOutMs + 10);
        sent.length = 0;
        for (let n = 0; n < 100; n += 1) void visit(`new ${n}`, NO_RESPONSE, { tookMs: timeOutMs });
        for (let waitedMs = 0; waitedMs < 4 * timeOutMs && !circuit.alone; waitedMs += 200) {
          circuit.hear(paidElsewhere());
          await tick(200);
        }
        expect(circuit.alone).to.not.equal(undefined);
        // Two may be under way at once.
        expect(sent).to.have.length.within(FAILS_ALONE_AFTER, FAILS_ALONE_AFTER + 1);
      });
    }

    it('stays open while its own probe hangs', async () => {
      const { circuit, paidElsewhere, visit, open, tick } = setUp({ probeLimitMs: 2_500 });
      await open();
      await tick(500);
      circuit.hear(paidElsewhere());
      void visit('hangs', NO_RESPONSE, { tookMs: 5_000 });
      for (let waitedMs = 0; waitedMs < 5_000; waitedMs += 200) {
        circuit.hear(paidElsewhere());
        expect(circuit.cause).to.not.equal(undefined);
        await tick(200);
      }
    });

    it('opens again with one failure after it closed on the word of others, and fails alone at a low rate, too', async () => {
      const { circuit, paidElsewhere, visit, sent, tick } = setUp({ probeLimitMs: 2_500 });
      for (let waitedMs = 0; waitedMs < 120_000 && !circuit.alone; waitedMs += 200) {
        if (waitedMs % 8_000 === 0) void visit(`new ${waitedMs}`, NO_RESPONSE, { tookMs: 5_000 });
        circuit.hear(paidElsewhere());
        await tick(200);
      }
      expect(circuit.alone).to.not.equal(undefined);
      expect(sent).to.have.length(3 + FAILS_ALONE_AFTER);
    });

    it('does not open again by a payment that has failed before', async () => {
      const { circuit, paidElsewhere, visit, open, tick } = setUp();
      await open();
      await tick(2 * BELIEVES_ITSELF_MS);
      circuit.hear(paidElsewhere());
      await visit('c', HTTP_502, { isNew: false });
      expect(circuit.cause).to.equal(undefined);
      await visit('d', HTTP_502);
      expect(circuit.cause).to.not.equal(undefined);
    });

    it('does not open by one failure after it has paid itself', async () => {
      const { circuit, paidElsewhere, visit, open, tick } = setUp();
      await open();
      await tick(2 * BELIEVES_ITSELF_MS);
      circuit.hear(paidElsewhere());
      expect(circuit.cause).to.equal(undefined);
      await visit('d', PAID);
      await visit('e', HTTP_502);
      expect(circuit.cause).to.equal(undefined);
    });

    it('fails alone after three different payments, hands back what waits, and probes every five seconds', async () => {
      const { circuit, changes, paidElsewhere, visit, sent, results, open, tick } = setUp();
      await open();
      for (let n = 0; n < 10; n += 1) void visit(`new ${n}`, HTTP_502);
      for (let round = 0; round < FAILS_ALONE_AFTER; round += 1) {
        await tick(PROBE_INTERVAL_MS);
        circuit.hear(paidElsewhere());
      }
      await tick(PROBE_INTERVAL_MS);
      expect(circuit.alone).to.include({ code: 'http_502' });
      expect(circuit.told().failsAlone).to.equal(true);
      expect(changes).to.include('alone');
      expect(circuit.waiting).to.equal(0);
      expect(results.get('new 9')).to.deep.equal({ kind: 'not_tried', why: 'no_place' });
      expect(await visit('too early', HTTP_502)).to.deep.equal({ kind: 'not_tried', why: 'no_place' });
      sent.length = 0;
      await tick(NEW_PROBE_EVERY_MS + PROBE_INTERVAL_MS);
      await visit('probe', PAID);
      expect(sent).to.deep.equal(['probe']);
      expect(circuit.alone).to.equal(undefined);
      expect(circuit.cause).to.equal(undefined);
    });

    it('does not fail alone by one payment that the gateway dislikes', async () => {
      const { circuit, paidElsewhere, visit, open, tick } = setUp();
      await open();
      for (let round = 0; round < 2 * FAILS_ALONE_AFTER; round += 1) {
        await tick(PROBE_INTERVAL_MS);
        void visit('disliked', HTTP_502, { isNew: round === 0 });
        circuit.hear(paidElsewhere());
      }
      expect(circuit.alone).to.equal(undefined);
    });

    it('does not fail alone any more when no other worker can use the gateway', async () => {
      const { circuit, paidElsewhere, visit, open, tick } = setUp();
      await open();
      for (let n = 0; n < 10; n += 1) void visit(`new ${n}`, HTTP_502);
      for (let round = 0; round <= FAILS_ALONE_AFTER; round += 1) {
        await tick(PROBE_INTERVAL_MS);
        circuit.hear(paidElsewhere());
      }
      expect(circuit.alone).to.not.equal(undefined);
      circuit.hear({ ...DOWN, hasWitness: false });
      expect(circuit.alone).to.equal(undefined);
    });
  });

  describe('with a bound on its requests', () => {
    it('lets payments wait for a place, in their order', async () => {
      const { circuit, visit, sent, tick } = setUp({ limit: 1 });
      for (const id of ['a', 'b', 'c']) void visit(id, PAID, { tookMs: 100 });
      await tick(50);
      expect(sent).to.deep.equal(['a']);
      expect(circuit).to.include({ underWay: 1, hasFreePlace: false, isAccepting: false });
      await tick(300);
      expect(sent).to.deep.equal(['a', 'b', 'c']);
      expect(circuit).to.include({ underWay: 0, hasFreePlace: true });
    });

    it('lets a payment give up after its own wait, as at an open circuit', async () => {
      const { visit, results, tick } = setUp({ limit: 1 });
      void visit('a', PAID, { tookMs: 1_000 });
      void visit('b', PAID, { maxWaitMs: 100 });
      await tick(150);
      expect(results.get('b')).to.deep.equal({ kind: 'not_tried', why: 'gave_up' });
    });

    it('counts the wait at the open circuit, too', async () => {
      const { circuit, paidElsewhere, visit, results, tick } = setUp({ limit: 1, answers: [heldFor(60_000)] });
      void visit('a', PAID, { tookMs: 10_000 });
      circuit.hear(DOWN);
      void visit('b', PAID, { maxWaitMs: 1_000 });
      await tick(700);
      circuit.hear(paidElsewhere());
      await tick(200);
      expect(results.has('b')).to.equal(false);
      await tick(200);
      expect(results.get('b')).to.deep.equal({ kind: 'not_tried', why: 'gave_up' });
    });

    it('sends no payment that waited for its place while the circuit opened', async () => {
      const { circuit, visit, sent, results, tick } = setUp({ limit: 1, answers: [heldFor(1_000)] });
      const asksForPause: AttemptOutcome = { ...HTTP_502, retryAfterMs: 1_000 };
      void visit('a', asksForPause, { tookMs: 100 });
      for (const id of ['b', 'c']) void visit(id, PAID);
      await tick(150);
      expect(sent).to.deep.equal(['a']);
      for (const id of ['b', 'c']) expect(results.get(id)).to.deep.equal({ kind: 'not_tried', why: 'cause_changed' });
      expect(circuit).to.include({ waiting: 0, underWay: 0 });
    });

    it('rejects those that wait when it is closed', async () => {
      const { circuit, visit, results, tick } = setUp({ limit: 1 });
      void visit('a', PAID, { tookMs: 100 });
      void visit('b', PAID);
      await tick(10);
      circuit.close();
      await tick(10);
      expect(results.get('b')).to.deep.equal({ kind: 'not_tried', why: 'closed' });
    });

    it('asks the gateway for a payment only when a place is free', async () => {
      const { circuit, visit, tick } = setUp({ limit: 1 });
      void visit('a', PAID, { tookMs: 100 });
      let isAsked = false;
      void circuit.lookUp({ isTied: true }, async () => {
        isAsked = true;
        return { kind: 'not_found' };
      });
      await tick(50);
      expect(isAsked).to.equal(false);
      await tick(60);
      expect(isAsked).to.equal(true);
    });
  });
});
