import { expect } from 'chai';
import sinon from 'sinon';
import {
  type CircuitCause,
  type CircuitOptions,
  type CircuitResult,
  createCircuit,
} from '../../../src/gateways/circuit.ts';
import type { AttemptOutcome, GatewayEvidence } from '../../../src/gateways/gateway.ts';
import { NEW_PROBE_EVERY_MS, NEW_PROBES } from '../../../src/gateways/probes.ts';
import type { Visitor } from '../../../src/gateways/waiting-room.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const THRESHOLD = 3;
const PROBE_INTERVAL_MS = 200;
const PROBE_LIMIT_MS = 500;

const PAID: AttemptOutcome = { kind: 'paid', onRecord: { amountCents: 1990, requestedAt: new Date(0) } };
const NEUTRAL: AttemptOutcome = unknown('none');
const HTTP_502 = unknown('response', 'http_502');
const TIMEOUT = unknown('no_response', 'ETIMEDOUT');
const REFUSED_CONNECTION: AttemptOutcome = {
  kind: 'not_sent',
  reason: 'unreachable',
  evidence: 'not_sent',
  cause: { code: 'ECONNREFUSED', detail: 'connection refused' },
};

function unknown(evidence: GatewayEvidence, code = 'http_422', retryAfterMs?: number): AttemptOutcome {
  const pause = retryAfterMs === undefined ? {} : { retryAfterMs };
  return { kind: 'unknown', evidence, cause: { code, detail: `detail of ${code}` }, ...pause };
}

/** A circuit under a fake clock. `sent` lists the payments that were sent, in order. */
function setUp(options: Partial<CircuitOptions> = {}) {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  const failing: CircuitCause[] = [];
  const events: string[] = [];
  const circuit = createCircuit({
    gateway: 'primary',
    failureThreshold: THRESHOLD,
    probeIntervalMs: PROBE_INTERVAL_MS,
    probeLimitMs: PROBE_LIMIT_MS,
    tiedPlaces: { limit: 2, taken: 0 },
    sparesNew: false,
    onFailing: (cause) => failing.push(cause),
    onClosed: () => events.push('closed'),
    ...options,
  });
  const sent: string[] = [];
  const results = new Map<string, CircuitResult>();

  /** A payment comes; its attempt ends as given, at once or after `tookMs`. */
  function visit(id: string, outcome: AttemptOutcome, visitor: Partial<Visitor> & { tookMs?: number } = {}) {
    const { tookMs = 0, ...rest } = visitor;
    const running = circuit.run(
      {
        correlationId: id,
        isNew: true,
        isTied: false,
        hasHadItsTurn: false,
        arrivedAtMs: performance.now(),
        maxWaitMs: Number.POSITIVE_INFINITY,
        notBeforeMs: Number.NEGATIVE_INFINITY,
        ...rest,
      },
      async () => {
        sent.push(id);
        if (tookMs > 0) await new Promise((resolve) => setTimeout(resolve, tookMs));
        return outcome;
      },
    );
    void running.then((result) => results.set(id, result));
    return running;
  }

  /** Three payments fail at once, and the circuit is open. */
  async function open(outcome: AttemptOutcome = HTTP_502): Promise<void> {
    for (const id of ['a', 'b', 'c']) await visit(id, outcome);
    sent.length = 0;
  }

  return { clock, circuit, failing, events, sent, results, visit, open, tick: (ms: number) => clock.tickAsync(ms) };
}

describe('circuit', () => {
  describe('while closed', () => {
    it('lets every payment pass, also one that does not wait', async () => {
      const { circuit, visit } = setUp();
      expect(await visit('a', PAID, { maxWaitMs: 0 })).to.equal(PAID);
      expect(circuit.isAccepting).to.equal(true);
      expect(circuit.cause).to.equal(undefined);
    });

    it('opens at the third failure in a row', async () => {
      const { circuit, visit, failing } = setUp();
      await visit('a', HTTP_502);
      await visit('b', HTTP_502);
      expect(circuit.cause).to.equal(undefined);
      await visit('c', TIMEOUT);
      expect(circuit.cause).to.deep.include({ code: 'ETIMEDOUT', evidence: 'no_response' });
      expect(failing).to.have.length(1);
      expect(await visit('d', PAID, { maxWaitMs: 0 })).to.deep.equal({ kind: 'not_tried', why: 'gave_up' });
    });

    it('does not count one payment twice in a row', async () => {
      const { circuit, visit } = setUp();
      for (let attempt = 0; attempt < 10; attempt += 1) await visit('a', HTTP_502);
      expect(circuit.cause).to.equal(undefined);
    });

    it('starts counting again after a success', async () => {
      const { circuit, visit } = setUp();
      for (const id of ['a', 'b']) await visit(id, HTTP_502);
      await visit('c', PAID);
      for (const id of ['d', 'e']) await visit(id, HTTP_502);
      expect(circuit.cause).to.equal(undefined);
    });

    it('does not count an attempt that says nothing about the gateway, neither for it nor against it', async () => {
      const { circuit, visit } = setUp();
      for (const id of ['a', 'b']) await visit(id, HTTP_502);
      for (let n = 0; n < 10; n += 1) await visit(`neutral ${n}`, NEUTRAL);
      expect(circuit.cause).to.equal(undefined);
      await visit('c', HTTP_502);
      expect(circuit.cause?.code).to.equal('http_502');
    });
  });

  describe('while open', () => {
    it('sends one probe 200 ms after the last failure', async () => {
      const { open, visit, sent, tick } = setUp();
      await open();
      for (const id of ['d', 'e']) void visit(id, HTTP_502);
      await tick(PROBE_INTERVAL_MS - 1);
      expect(sent).to.deep.equal([]);
      await tick(1);
      expect(sent).to.deep.equal(['d']);
      await tick(PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['d', 'e']);
    });

    it('sends the next payment as the probe at once when none waited at the time of the probe', async () => {
      const { circuit, open, visit, sent, tick } = setUp();
      await open();
      expect(circuit.isAccepting).to.equal(false);
      await tick(PROBE_INTERVAL_MS);
      expect(circuit.isAccepting).to.equal(true);
      await visit('d', HTTP_502, { maxWaitMs: 0 });
      expect(sent).to.deep.equal(['d']);
      expect(circuit.isAccepting).to.equal(false);
    });

    it('closes when a probe is paid, and all waiting payments pass', async () => {
      const { circuit, open, visit, sent, events, tick } = setUp();
      await open();
      for (const id of ['d', 'e', 'f']) void visit(id, PAID);
      await tick(PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['d', 'e', 'f']);
      expect(events).to.deep.equal(['closed']);
      expect(circuit.cause).to.equal(undefined);
    });

    it('closes when an attempt succeeds that was sent before it opened', async () => {
      const { circuit, open, visit, tick } = setUp();
      void visit('early', PAID, { tookMs: 100 });
      await open();
      await tick(100);
      expect(circuit.cause).to.equal(undefined);
    });

    it('returns gave_up for a payment whose wait is over', async () => {
      const { open, visit, results, tick } = setUp();
      await open(TIMEOUT);
      void visit('d', PAID, { maxWaitMs: 50 });
      await tick(50);
      expect(results.get('d')).to.deep.equal({ kind: 'not_tried', why: 'gave_up' });
    });

    it('returns cause_changed for waiting payments when connections fail after the gateway had responded', async () => {
      const { open, visit, results, tick } = setUp();
      await open(HTTP_502);
      void visit('d', REFUSED_CONNECTION);
      void visit('e', PAID);
      await tick(PROBE_INTERVAL_MS);
      expect(results.get('e')).to.deep.equal({ kind: 'not_tried', why: 'cause_changed' });
    });

    it('keeps its `since` as long as the cause has the same code', async () => {
      const { circuit, open, visit, tick } = setUp();
      await open(HTTP_502);
      await tick(PROBE_INTERVAL_MS);
      await visit('d', HTTP_502);
      expect(circuit.cause?.since.getTime()).to.equal(0);
      await tick(PROBE_INTERVAL_MS);
      await visit('e', unknown('response', 'http_503'));
      expect(circuit.cause?.since.getTime()).to.equal(2 * PROBE_INTERVAL_MS);
    });

    it('returns closed for current and future payments after close()', async () => {
      const { circuit, open, visit, results, tick } = setUp();
      await open();
      void visit('d', PAID);
      circuit.close();
      await tick(0);
      expect(results.get('d')).to.deep.equal({ kind: 'not_tried', why: 'closed' });
      expect(await visit('e', PAID)).to.deep.equal({ kind: 'not_tried', why: 'closed' });
    });
  });

  describe('the choice of the probe', () => {
    it('takes new payments first, though retries have waited longer', async () => {
      const { open, visit, sent, tick } = setUp();
      await open();
      void visit('failed before', HTTP_502, { isNew: false });
      void visit('new', HTTP_502);
      await tick(PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['new']);
    });

    it('reaches a good payment behind ten disliked ones after eleven probes', async () => {
      const { open, visit, sent, events, tick } = setUp();
      await open();
      for (let n = 0; n < 10; n += 1) void visit(`disliked ${n}`, HTTP_502);
      void visit('good', PAID);
      await tick(11 * PROBE_INTERVAL_MS);
      expect(sent.at(-1)).to.equal('good');
      expect(events).to.deep.equal(['closed']);
    });

    it('does not wait for the time-outs of hanging probes', async () => {
      const { open, visit, events, tick } = setUp();
      await open(TIMEOUT);
      for (let n = 0; n < 6; n += 1) void visit(`hangs ${n}`, TIMEOUT, { tookMs: 1_000 });
      void visit('good', PAID);
      await tick(PROBE_INTERVAL_MS + 6 * PROBE_LIMIT_MS);
      expect(events).to.deep.equal(['closed']);
    });

    it('takes a new payment only every 5 s after twenty were not taken, and retries in turn in between', async () => {
      const { open, visit, sent, tick } = setUp();
      await open();
      for (let n = 0; n <= NEW_PROBES; n += 1) void visit(`new ${n}`, HTTP_502);
      await tick(NEW_PROBES * PROBE_INTERVAL_MS);
      expect(sent).to.have.length(NEW_PROBES);
      for (const id of ['old 1', 'old 2', 'old 3']) void visit(id, HTTP_502, { isNew: false });
      await tick(3 * PROBE_INTERVAL_MS);
      expect(sent.slice(NEW_PROBES)).to.deep.equal(['old 1', 'old 2', 'old 3']);
      await tick(NEW_PROBE_EVERY_MS);
      expect(sent.slice(NEW_PROBES + 3)).to.deep.equal([`new ${NEW_PROBES}`]);
    });

    it('takes a new payment each time while they are refused, because that does not tie them', async () => {
      const { open, visit, sent, tick } = setUp();
      await open();
      const refused: AttemptOutcome = {
        kind: 'refused',
        evidence: 'response',
        cause: { code: 'http_429', detail: '' },
      };
      for (let n = 0; n < NEW_PROBES + 5; n += 1) void visit(`new ${n}`, refused);
      await tick((NEW_PROBES + 5) * PROBE_INTERVAL_MS);
      expect(sent).to.have.length(NEW_PROBES + 5);
    });

    it('spares new payments that could go elsewhere while nothing responds', async () => {
      const { circuit, open, visit, sent, tick } = setUp({ sparesNew: true });
      await open(TIMEOUT);
      for (const id of ['new 1', 'new 2']) void visit(id, TIMEOUT);
      await tick(NEW_PROBE_EVERY_MS - 1);
      expect(sent).to.deep.equal([]);
      expect(circuit.isAccepting).to.equal(false);
      await tick(1);
      expect(sent).to.deep.equal(['new 1']);
    });

    it('takes any payment while connections fail, because nothing is sent', async () => {
      const { open, visit, sent, tick } = setUp({ sparesNew: true });
      await open(REFUSED_CONNECTION);
      for (const id of ['d', 'e']) void visit(id, REFUSED_CONNECTION);
      await tick(2 * PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['d', 'e']);
    });
  });

  describe('tied payments', () => {
    const TIED = { isNew: false, isTied: true };

    it('take no more places than the limit, at both gateways together', async () => {
      const tiedPlaces = { limit: 2, taken: 0 };
      const { open, visit, results, tick } = setUp({ tiedPlaces });
      await open();
      for (const id of ['d', 'e', 'f']) void visit(id, HTTP_502, TIED);
      await tick(0);
      expect(tiedPlaces.taken).to.equal(2);
      expect(results.get('f')).to.deep.equal({ kind: 'not_tried', why: 'no_place' });
    });

    it('give their places back when they are sent or their wait is over', async () => {
      const tiedPlaces = { limit: 2, taken: 0 };
      const { open, visit, tick } = setUp({ tiedPlaces });
      await open();
      void visit('d', HTTP_502, TIED);
      void visit('e', HTTP_502, { ...TIED, maxWaitMs: 300 });
      await tick(PROBE_INTERVAL_MS);
      expect(tiedPlaces.taken).to.equal(1);
      await tick(100);
      expect(tiedPlaces.taken).to.equal(0);
    });

    it('keep waiting after they were sent while no other payment can be the probe', async () => {
      const { open, visit, sent, tick } = setUp();
      await open();
      void visit('d', HTTP_502, { ...TIED, hasHadItsTurn: true });
      await tick(PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['d']);
    });

    it('go back to the queue after they were sent when another one comes', async () => {
      const { open, visit, results, tick } = setUp();
      await open();
      void visit('d', HTTP_502, { ...TIED, hasHadItsTurn: true });
      void visit('e', HTTP_502, TIED);
      await tick(0);
      expect(results.get('d')).to.deep.equal({ kind: 'not_tried', why: 'no_place' });
      expect(await visit('f', HTTP_502, { ...TIED, hasHadItsTurn: true })).to.include({ why: 'no_place' });
    });

    it('do not wait when the limit is 0, but are sent when a probe is due', async () => {
      const { open, visit, sent, tick } = setUp({ tiedPlaces: { limit: 0, taken: 0 } });
      await open();
      expect(await visit('d', HTTP_502, TIED)).to.include({ why: 'no_place' });
      await tick(PROBE_INTERVAL_MS);
      await visit('e', HTTP_502, TIED);
      expect(sent).to.deep.equal(['e']);
    });
  });

  describe('Retry-After', () => {
    const FOR_2_S = unknown('response', 'http_503', 2_000);

    it('opens the circuit after one response, and delays the next probe', async () => {
      const { circuit, visit, sent, tick } = setUp();
      await visit('a', FOR_2_S);
      expect(circuit.cause?.code).to.equal('http_503');
      void visit('b', PAID);
      await tick(1_999);
      expect(sent).to.deep.equal(['a']);
      await tick(1);
      expect(sent).to.deep.equal(['a', 'b']);
    });

    it('does not open the circuit within 2 s after another payment was paid', async () => {
      const { circuit, visit } = setUp();
      await visit('a', PAID);
      await visit('b', FOR_2_S);
      expect(circuit.cause).to.equal(undefined);
    });

    it('delays the next probe only once when the same payment gets it twice in a row', async () => {
      const { visit, sent, tick } = setUp();
      await visit('a', FOR_2_S);
      void visit('a', FOR_2_S, { isNew: false });
      await tick(2_000);
      void visit('b', PAID);
      await tick(PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['a', 'a', 'b']);
    });

    it('delays only its own payment while the circuit is open', async () => {
      const { open, visit, sent, results, tick } = setUp();
      await open();
      void visit('waits', HTTP_502, { isNew: false, notBeforeMs: 1_000 });
      void visit('other', HTTP_502, { isNew: false });
      await tick(2 * PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['other']);
      await tick(1_000 - 2 * PROBE_INTERVAL_MS);
      expect(sent).to.deep.equal(['other', 'waits']);
      void visit('waits more', HTTP_502, { isNew: false, notBeforeMs: 9_000 });
      void visit('good', PAID);
      await tick(PROBE_INTERVAL_MS);
      expect(results.get('waits more')).to.include({ why: 'no_place' });
    });
  });
});
